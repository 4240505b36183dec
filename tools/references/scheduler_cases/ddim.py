import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"ddim": "DDIMScheduler"}


def cases():
    sd = {"_class_name": "DDIMScheduler", **STABLE_DIFFUSION}
    for spacing in SPACINGS:
        for steps in (1, 2, 3, 7, 20, 50, 61, 100, 999):
            yield case(f"ddim {spacing} {steps}", "ddim", {**sd, "timestep_spacing": spacing}, steps)
        for prediction in ("sample", "v_prediction"):
            config = {**sd, "timestep_spacing": spacing, "prediction_type": prediction}
            yield case(f"ddim {spacing} {prediction}", "DDIMScheduler", config, 25)
        yield case(
            f"ddim {spacing} 1000 offset 0", "ddim", {**sd, "timestep_spacing": spacing, "steps_offset": 0}, 1000
        )
        zero_snr = {
            **sd,
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": spacing,
        }
        yield case(f"ddim {spacing} zero snr", "ddim", zero_snr, 20)
        # Not at 3, 6, 7 and many other numbers of steps: there diffusers takes the root of -6e-8, and all is NaN.
        yield case(f"ddim {spacing} zero snr eta 1", "ddim", zero_snr, 8, eta=1.0, seeds=[5])
    for steps in (1, 10, 50):
        yield case(f"ddim defaults {steps}", "ddim", {}, steps)
    yield case("ddim saved defaults", "ddim", json.loads(diffusers.DDIMScheduler().to_json_string()), 10)
    for to_one in (True, False):
        for offset in (0, 1):
            config = {**sd, "set_alpha_to_one": to_one, "steps_offset": offset}
            yield case(f"ddim set_alpha_to_one {to_one} offset {offset}", "ddim", config, 10)
    for prediction in ("epsilon", "sample", "v_prediction"):
        for eta in (0.0, 0.5, 1.0):
            for clipped in (False, True):
                config = {"clip_sample": True, "clip_sample_range": 0.8, "prediction_type": prediction}
                yield case(f"ddim {prediction} eta {eta} use_clipped {clipped}", "ddim", config, 12,
                           eta=eta, seeds=[7], use_clipped_model_output=clipped)  # fmt: skip
        for most in (1.0, 2.5):
            config = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": most}
            yield case(f"ddim {prediction} thresholding {most}", "ddim", {**config, "prediction_type": prediction}, 12)
    yield case("ddim eta, a seed for each item", "ddim", sd, 12, eta=1.0, seeds=[3, 2**40 + 1])
    yield case("ddim from the middle", "ddim", sd, 20, first=8)
    yield case("ddim from a PNDM file", "ddim", {**sd, "_class_name": "PNDMScheduler"}, 7)
    for schedule in ("linear", "squaredcos_cap_v2"):
        yield case(f"ddim {schedule}", "ddim", {"beta_schedule": schedule, "clip_sample": False}, 20)
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train, "clip_sample": False}
        yield case(f"ddim trained betas {train}", "ddim", config, 11)
    for dtype in HALF_TYPES:
        yield case(f"ddim {dtype}", "ddim", sd, 20, dtype=dtype)
        yield case(
            f"ddim {dtype} eta", "ddim", {"prediction_type": "v_prediction"}, 10, dtype=dtype, eta=1.0, seeds=[9]
        )
        yield case(f"ddim {dtype} thresholding", "ddim", {"thresholding": True}, 10, dtype=dtype)


def timesteps():
    for spacing in SPACINGS:
        yield "ddim", {"timestep_spacing": spacing}
        for train in (250, 2000):
            yield "ddim", {"timestep_spacing": spacing, "num_train_timesteps": train}
    yield "ddim", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    for levels in ([0, 999], [501]):
        yield "ddim", STABLE_DIFFUSION, None, levels
