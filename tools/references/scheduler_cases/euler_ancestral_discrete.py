import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"euler_a": "EulerAncestralDiscreteScheduler"}
SD = {"_class_name": "EulerAncestralDiscreteScheduler", **STABLE_DIFFUSION}


def cases():
    for spacing in SPACINGS:
        sd = {**SD, "timestep_spacing": spacing}
        for steps in (1, 2, 3, 7, 20, 50, 61, 999):
            yield case(f"euler_a {spacing} {steps}", "euler_a", sd, steps, seeds=[steps])
        velocity = {**sd, "prediction_type": "v_prediction"}
        yield case(f"euler_a {spacing} v_prediction", "euler_a", velocity, 12, seeds=[5])
        zero_snr = {**velocity, "rescale_betas_zero_snr": True}
        yield case(f"euler_a {spacing} zero snr", "euler_a", zero_snr, 12, seeds=[6])
    saved = json.loads(diffusers.EulerAncestralDiscreteScheduler().to_json_string())
    yield case("euler_a defaults", "EulerAncestralDiscreteScheduler", {}, 10, seeds=[0])
    yield case("euler_a saved defaults", "euler_a", saved, 10, seeds=[0])
    yield case("euler_a from a DDIM file", "euler_a", {**SD, "_class_name": "DDIMScheduler"}, 7, seeds=[1])
    # Settings of other classes, without effect here.
    others = {"use_karras_sigmas": True, "sigma_min": 0.1, "final_sigmas_type": "sigma_min"}
    yield case("euler_a from a Euler file", "euler_a", {**SD, **others, "_class_name": "EulerDiscreteScheduler"}, 7,
               seeds=[1])  # fmt: skip
    yield case("euler_a, a seed for each item", "euler_a", SD, 12, seeds=[3, 2**40 + 1])
    yield case("euler_a from the middle", "euler_a", SD, 20, first=8, seeds=[2])
    yield case("euler_a from the last step", "euler_a", SD, 20, first=19, seeds=[2])
    yield case("euler_a squaredcos_cap_v2", "euler_a", {"beta_schedule": "squaredcos_cap_v2"}, 12, seeds=[2])
    config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 100}
    yield case("euler_a trained betas", "euler_a", config, 11, seeds=[2])
    for dtype in HALF_TYPES:
        for prediction in ("epsilon", "v_prediction"):
            config = {**SD, "prediction_type": prediction}
            yield case(f"euler_a {dtype} {prediction}", "euler_a", config, 20, dtype=dtype, seeds=[8])


def timesteps():
    for spacing in SPACINGS:
        yield "euler_a", {"timestep_spacing": spacing}
    yield "euler_a", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    yield "euler_a", SD, 7, [999.0, 832.5]
