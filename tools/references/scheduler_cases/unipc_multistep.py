import json

import diffusers

from scheduler_cases.common import FLOW, HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case, flow_cases

NAMES = {"unipc": "UniPCMultistepScheduler"}
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
SD = {"_class_name": "UniPCMultistepScheduler", **STABLE_DIFFUSION}


def order_cases():
    for solver in ("bh1", "bh2"):
        for predict_x0 in (True, False):
            for order in (1, 2, 3):
                # Any but the defaults give NaN with a last sigma of 0.
                finals = ("zero", "sigma_min") if solver == "bh2" and predict_x0 else ("sigma_min",)
                for final in finals:
                    config = {**SD, "solver_type": solver, "predict_x0": predict_x0, "solver_order": order,
                              "final_sigmas_type": final}  # fmt: skip
                    for steps in (1, 2, 3, 20):
                        yield case(
                            f"{solver}, predict_x0 {predict_x0}, {order} {final} {steps}", "unipc", config, steps
                        )
                config = {**config, "lower_order_final": False}
                yield case(f"{solver}, predict_x0 {predict_x0}, {order} to the end", "unipc", config, 8)
    for order in (2, 3):
        for disabled in ([0], [0, 1, 2], [3, 5], [-1, 100], list(range(12))):
            config = {**SD, "disable_corrector": disabled, "solver_order": order}
            yield case(f"{order} disable_corrector {disabled}", "unipc", config, 12)


def sigma_cases():
    for spacing in SPACINGS:
        for steps in (1, 2, 3, 7, 20, 50, 61, 100, 499):
            yield case(f"{spacing} {steps}", "unipc", {**SD, "timestep_spacing": spacing}, steps)
        for prediction in ("sample", "v_prediction"):
            for predict_x0 in (True, False):
                config = {**SD, "timestep_spacing": spacing, "prediction_type": prediction, "predict_x0": predict_x0,
                          "final_sigmas_type": "sigma_min"}  # fmt: skip
                yield case(f"{spacing} {prediction}, predict_x0 {predict_x0}", "unipc", config, 12)
        for offset in (0, 1):
            config = {**SD, "timestep_spacing": spacing, "steps_offset": offset}
            yield case(f"{spacing} offset {offset}", "unipc", config, 10)
        config = {**SD, "timestep_spacing": spacing, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        yield case(f"{spacing} zero snr", "unipc", config, 20)
    for sigmas in SIGMAS:
        for final in ("zero", "sigma_min"):
            for order in (2, 3):
                config = {**SD, sigmas: True, "final_sigmas_type": final, "solver_order": order}
                for steps in (1, 2, 3, 20):
                    yield case(f"{sigmas} {final} {order} {steps}", "unipc", config, steps)
        for steps in (50, 100):
            yield case(f"{sigmas} {steps}", "unipc", {**SD, sigmas: True}, steps)
        # At its end, where the noise level stays as it is, the second order has a limit, though the third has none.
        config = {**SD, sigmas: True, "final_sigmas_type": "sigma_min", "lower_order_final": False}
        yield case(f"{sigmas} to the end", "unipc", config, 12)
        config = {sigmas: True, "beta_schedule": "squaredcos_cap_v2"}
        if sigmas == "use_beta_sigmas":  # from this schedule's highest sigma, their steps make samples large
            config["sigma_max"] = 50.0
        yield case(f"{sigmas} cosine", "unipc", config, 20)
        yield case(f"{sigmas} limits", "unipc", {**SD, sigmas: True, "sigma_min": 0.1, "sigma_max": 10.0}, 12)


def cases():
    yield from order_cases()
    yield from sigma_cases()
    for steps in (10, 50):
        yield case(f"defaults {steps}", "UniPCMultistepScheduler", {}, steps)
    saved = json.loads(diffusers.UniPCMultistepScheduler().to_json_string())
    yield case("saved defaults", "unipc", saved, 10)
    yield case("from a PNDM file", "unipc", {**SD, "_class_name": "PNDMScheduler"}, 7)
    for name in ("DPMSolverMultistepScheduler", "DEISMultistepScheduler"):  # with other types of solver
        saved = json.loads(getattr(diffusers, name)().to_json_string())
        yield case(f"from a {name}'s file", "unipc", saved, 7)
    for prediction in ("epsilon", "sample", "v_prediction"):
        for most in (1.0, 2.5):
            config = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": most,
                      "prediction_type": prediction}  # fmt: skip
            yield case(f"{prediction} thresholding {most}", "unipc", config, 10)
        # Without effect, as in diffusers.
        config = {"thresholding": True, "prediction_type": prediction, "predict_x0": False,
                  "final_sigmas_type": "sigma_min"}  # fmt: skip
        yield case(f"{prediction} thresholding, predict_x0 False", "unipc", config, 10)
    for order in (1, 2, 3):
        for first in (8, 18, 19):
            yield case(f"{order} from step {first}", "unipc", {**SD, "solver_order": order}, 20, first=first)
        for dtype in HALF_TYPES:
            yield case(f"{order} {dtype}", "unipc", {**SD, "solver_order": order}, 20, dtype=dtype)
    for dtype in HALF_TYPES:
        config = {"thresholding": True, "prediction_type": "v_prediction", "use_karras_sigmas": True}
        yield case(f"{dtype} thresholding", "unipc", config, 10, dtype=dtype)
    yield case("karras from the middle", "unipc", {**SD, "use_karras_sigmas": True}, 20, first=9)
    yield case("linear", "unipc", {"beta_schedule": "linear"}, 20)
    config = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    yield case("cosine", "unipc", config, 20)
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train}
        yield case(f"trained betas {train}", "unipc", config, 11)
    yield from flow_cases("unipc")


def timesteps():
    for spacing in SPACINGS:
        yield "unipc", {"timestep_spacing": spacing}
        yield "unipc", {"timestep_spacing": spacing, "num_train_timesteps": 250}
    yield "unipc", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    for levels in ([999, 500], [749]):
        yield "unipc", SD, 4, levels
    yield "unipc", {**SD, "use_karras_sigmas": True}, 50, [32, 1]
    yield "unipc", FLOW, 4, [999, 899]
