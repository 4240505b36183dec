import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"heun": "HeunDiscreteScheduler"}
SD = {"_class_name": "HeunDiscreteScheduler", **STABLE_DIFFUSION}


def cases():
    for spacing in SPACINGS:
        sd = {**SD, "timestep_spacing": spacing}
        for steps in (1, 2, 3, 7, 20, 50, 61, 500):
            yield case(f"heun {spacing} {steps}", "heun", sd, steps)
        for prediction in ("sample", "v_prediction"):
            yield case(f"heun {spacing} {prediction}", "heun", {**sd, "prediction_type": prediction}, 12)
        for sigmas in ("karras", "exponential", "beta"):
            for steps in (1, 2, 7, 20):
                yield case(f"heun {spacing} {sigmas} {steps}", "heun", {**sd, f"use_{sigmas}_sigmas": True}, steps)
    limits = {"sigma_min": 0.1, "sigma_max": 10.0}  # of other classes, but they have an effect
    yield case("heun beta limits", "heun", {**SD, **limits, "use_beta_sigmas": True}, 7)
    yield case("heun defaults", "heun", {}, 10)
    saved = json.loads(diffusers.HeunDiscreteScheduler().to_json_string())
    yield case("heun saved defaults", "HeunDiscreteScheduler", saved, 10)
    yield case("heun from a PNDM file", "heun", {**SD, "_class_name": "PNDMScheduler"}, 7)
    # Settings of other classes: only sigma_min has an effect here.
    others = {"sigma_min": 0.1, "final_sigmas_type": "sigma_min", "rescale_betas_zero_snr": True, "thresholding": True}
    yield case("heun from a Euler file", "heun", {**SD, **others, "use_karras_sigmas": True,
               "_class_name": "EulerDiscreteScheduler"}, 7)  # fmt: skip
    for first in (6, 8, 38):
        yield case(f"heun from {first}", "heun", SD, 20, first=first)
    for prediction in ("epsilon", "sample", "v_prediction"):
        config = {**SD, "clip_sample": True, "clip_sample_range": 0.8, "prediction_type": prediction}
        yield case(f"heun {prediction} clipped", "heun", config, 7)
    for schedule in ("scaled_linear", "squaredcos_cap_v2", "exp"):
        yield case(f"heun {schedule}", "heun", {"beta_schedule": schedule, "prediction_type": "sample"}, 7)
    config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 120}
    yield case("heun trained betas", "heun", config, 11)
    yield case("heun trained betas karras", "heun", {**config, "use_karras_sigmas": True}, 11)
    for dtype in HALF_TYPES:
        for prediction in ("epsilon", "sample", "v_prediction"):
            yield case(f"heun {dtype} {prediction}", "heun", {**SD, "prediction_type": prediction}, 12, dtype=dtype)
        yield case(f"heun {dtype} clipped", "heun", {"clip_sample": True}, 7, dtype=dtype)


def timesteps():
    for spacing in SPACINGS:
        yield "heun", {"timestep_spacing": spacing}
    yield "heun", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    yield "heun", SD, 7, [999.0, 832.5]
    yield "heun", {**SD, "use_karras_sigmas": True}, 7, [999.0]
