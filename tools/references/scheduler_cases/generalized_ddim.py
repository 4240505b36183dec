from scheduler_cases.common import STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"generalized_ddim": "GeneralizedDDIMScheduler", "generalized_ddim_quad": "GeneralizedDDIMScheduler"}
SETTINGS = {"generalized_ddim_quad": {"skip_type": "quad"}}
SKIP_TYPES = "uniform", "quad"


def cases():
    ddpm = {"_class_name": "DDPMScheduler"}
    for skip in SKIP_TYPES:
        name = "generalized_ddim" + "_quad" * (skip == "quad")
        for steps in (1, 2, 3, 7, 10, 30, 100):  # with 100 quadratic ones, the last four are timestep 0
            yield case(f"generalized ddim {skip} {steps}", name, {}, steps, seeds=[5])
        for eta in (0.5, 1.0):
            yield case(f"generalized ddim {skip} eta {eta}", name, ddpm, 10, eta=eta, seeds=[7])
        yield case(f"generalized ddim {skip} by setting", "generalized_ddim", {"skip_type": skip}, 10, seeds=[5])
        yield case(f"generalized ddim {skip} a seed for each item", name, {}, 10, eta=0.5, seeds=[3, 2**40 + 1])
    yield case("generalized ddim scaled_linear", "generalized_ddim", {**STABLE_DIFFUSION}, 20, seeds=[5])
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train}
        yield case(f"generalized ddim trained betas {train}", "generalized_ddim", config, 11, seeds=[5])
    yield case("generalized ddim from the middle", "generalized_ddim_quad", {}, 20, first=8, seeds=[5])
    for dtype in ("float16", "bfloat16"):
        yield case(f"generalized ddim {dtype}", "generalized_ddim_quad", {}, 10, dtype=dtype, eta=1.0, seeds=[9])


def timesteps():
    for skip in SKIP_TYPES:
        for train in (250, 1000, 2000):
            yield "generalized_ddim", {"skip_type": skip, "num_train_timesteps": train}


def add_noise():
    for levels in ([0, 999], [501]):
        yield "generalized_ddim", {}, None, levels
