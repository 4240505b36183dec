import json

import diffusers

from scheduler_cases.common import HALF_TYPES, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"lcm": "LCMScheduler"}


def cases():
    # As the published latent consistency models have it.
    sd = {"_class_name": "LCMScheduler", **STABLE_DIFFUSION, "original_inference_steps": 50, "timestep_scaling": 10.0}
    for steps in (1, 2, 3, 4, 7, 8, 20, 49, 50):
        yield case(f"lcm {steps}", "lcm", sd, steps, seeds=[5])
        yield case(f"lcm {steps} v_prediction", "LCMScheduler", {**sd, "prediction_type": "v_prediction"}, steps,
                   seeds=[6])  # fmt: skip
    for original in (1, 7, 30, 100, 999, 1000):
        steps = min(original, 12)
        yield case(f"lcm {steps} of {original}", "lcm", {**sd, "original_inference_steps": original}, steps, seeds=[7])
    # Where 0.25 and the square of a scaled timestep are of one size, both boundary conditions count.
    for scaling in (0.0, 0.001, 0.01, 1.0):
        yield case(f"lcm scaling {scaling}", "lcm", {**sd, "timestep_scaling": scaling}, 8, seeds=[8])
    for steps in (1, 4, 50):
        yield case(f"lcm defaults {steps}", "lcm", {}, steps, seeds=[9])
    yield case("lcm saved defaults", "lcm", json.loads(diffusers.LCMScheduler().to_json_string()), 10, seeds=[10])
    for to_one in (True, False):
        for spacing in ("leading", "trailing"):
            config = {**sd, "set_alpha_to_one": to_one, "timestep_spacing": spacing, "steps_offset": int(to_one)}
            yield case(f"lcm set_alpha_to_one {to_one}, {spacing}", "lcm", config, 8, seeds=[11])
    for prediction in ("epsilon", "sample", "v_prediction"):
        config = {"prediction_type": prediction, "clip_sample": True, "clip_sample_range": 0.8}
        yield case(f"lcm {prediction} clipped", "lcm", config, 8, seeds=[12])
        for most in (1.0, 2.5):
            config = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": most}
            yield case(f"lcm {prediction} thresholding {most}", "lcm", {**config, "prediction_type": prediction}, 8,
                       seeds=[13])  # fmt: skip
    zero_snr = {**sd, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    yield case("lcm zero snr", "lcm", zero_snr, 8, seeds=[14])
    yield case("lcm, a seed for each item", "lcm", sd, 8, seeds=[3, 2**40 + 1])
    yield case("lcm from the middle", "lcm", sd, 20, first=8, seeds=[15])
    yield case("lcm from the last step", "lcm", sd, 8, first=7)
    yield case("lcm from a PNDM file", "lcm", {**STABLE_DIFFUSION, "_class_name": "PNDMScheduler"}, 7, seeds=[16])
    for schedule in ("linear", "squaredcos_cap_v2"):
        yield case(f"lcm {schedule}", "lcm", {"beta_schedule": schedule, "clip_sample": True}, 8, seeds=[17])
    yield case("lcm trained betas", "lcm", {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 120}, 8, seeds=[18])
    for dtype in HALF_TYPES:
        yield case(f"lcm {dtype}", "lcm", sd, 8, dtype=dtype, seeds=[19])
        config = {"prediction_type": "v_prediction", "thresholding": True}
        yield case(f"lcm {dtype} thresholding", "lcm", config, 8, dtype=dtype, seeds=[20])


def timesteps():
    for original in (1, 7, 50, 1000):
        yield "lcm", {"original_inference_steps": original}
    yield "lcm", {"num_train_timesteps": 250, "original_inference_steps": 99}


def add_noise():
    for levels in ([0, 999], [501]):
        yield "lcm", STABLE_DIFFUSION, None, levels
