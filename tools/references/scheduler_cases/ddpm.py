import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"ddpm": "DDPMScheduler"}
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")


def cases():
    sd = {"_class_name": "DDPMScheduler", **STABLE_DIFFUSION}
    for spacing in SPACINGS:
        for steps in (1, 2, 3, 7, 20, 50, 61, 999):
            yield case(f"ddpm {spacing} {steps}", "ddpm", {**sd, "timestep_spacing": spacing}, steps, seeds=[5])
        config = {**sd, "timestep_spacing": spacing, "steps_offset": 0}
        yield case(f"ddpm {spacing} 1000 offset 0", "ddpm", config, 1000, seeds=[6])
        for variance in VARIANCES:
            config = {**sd, "timestep_spacing": spacing, "variance_type": variance}
            yield case(f"ddpm {spacing} {variance}", "DDPMScheduler", config, 25, seeds=[7])
        for variance in VARIANCES:
            config = {
                **sd,
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": spacing,
                "variance_type": variance,
            }
            yield case(f"ddpm {spacing} zero snr {variance}", "ddpm", config, 20, seeds=[8])
    for steps in (1, 10, 50):
        yield case(f"ddpm defaults {steps}", "ddpm", {}, steps, seeds=[9])
    yield case("ddpm saved defaults", "ddpm", json.loads(diffusers.DDPMScheduler().to_json_string()), 10, seeds=[10])
    for prediction in ("epsilon", "sample", "v_prediction"):
        for variance in VARIANCES:
            config = {"prediction_type": prediction, "variance_type": variance, "clip_sample_range": 0.8}
            yield case(f"ddpm {prediction} {variance}", "ddpm", config, 12, seeds=[11])
        for most in (1.0, 2.5):
            config = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": most}
            yield case(f"ddpm {prediction} thresholding {most}", "ddpm", {**config, "prediction_type": prediction}, 12,
                       seeds=[12])  # fmt: skip
    yield case("ddpm, a seed for each item", "ddpm", sd, 12, seeds=[3, 2**40 + 1])
    yield case("ddpm from the middle", "ddpm", sd, 20, first=8, seeds=[13])
    yield case("ddpm from the last step", "ddpm", sd, 20, first=19, seeds=[14])
    yield case("ddpm from a PNDM file", "ddpm", {**sd, "_class_name": "PNDMScheduler"}, 7, seeds=[15])
    saved = json.loads(diffusers.DPMSolverMultistepScheduler().to_json_string())  # with a variance_type of null
    yield case("ddpm from a DPM-Solver file", "ddpm", saved, 7, seeds=[16])
    for schedule in ("linear", "squaredcos_cap_v2", "sigmoid"):
        yield case(f"ddpm {schedule}", "ddpm", {"beta_schedule": schedule, "clip_sample": False}, 20, seeds=[17])
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train, "clip_sample": False}
        yield case(f"ddpm trained betas {train}", "ddpm", config, 11, seeds=[18])
    for dtype in HALF_TYPES:
        for variance in VARIANCES:
            config = {**sd, "variance_type": variance}
            yield case(f"ddpm {dtype} {variance}", "ddpm", config, 20, dtype=dtype, seeds=[19])
        config = {"prediction_type": "v_prediction", "thresholding": True}
        yield case(f"ddpm {dtype} thresholding", "ddpm", config, 10, dtype=dtype, seeds=[20])
    yield from learned_cases()


def learned_cases():
    for variance in ("learned", "learned_range"):
        for spacing in SPACINGS:
            config = {"timestep_spacing": spacing, "variance_type": variance}
            for steps in (1, 3, 25):
                yield case(f"ddpm {spacing} {variance} {steps}", "ddpm", config, steps, seeds=[21])
        config = {"variance_type": variance, "prediction_type": "v_prediction"}
        for dtype in ("float32", *HALF_TYPES):
            yield case(f"ddpm {dtype} {variance} v_prediction", "ddpm", config, 12, dtype=dtype, seeds=[22])


def timesteps():
    for spacing in SPACINGS:
        yield "ddpm", {"timestep_spacing": spacing}
        yield "ddpm", {"timestep_spacing": spacing, "num_train_timesteps": 250}
    yield "ddpm", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    for levels in ([0, 999], [501]):
        yield "ddpm", STABLE_DIFFUSION, None, levels
