import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"plms": "PNDMScheduler"}
SETTINGS = {"plms": {"skip_prk_steps": True}}


def cases():
    sd = {"_class_name": "PNDMScheduler", **STABLE_DIFFUSION}
    for spacing in SPACINGS:
        for steps in (1, 2, 3, 4, 5, 7, 20, 50, 61, 100, 999):
            yield case(f"plms {spacing} {steps}", "PNDMScheduler", {**sd, "timestep_spacing": spacing}, steps)
        prk = {**sd, "timestep_spacing": spacing, "skip_prk_steps": False}
        for steps in (4, 5, 7, 20, 50, 61, 100, 999):
            yield case(f"prk {spacing} {steps}", "PNDMScheduler", prk, steps)
        for skip in (True, False):
            config = {**prk, "skip_prk_steps": skip, "prediction_type": "v_prediction"}
            yield case(f"pndm {spacing} v_prediction, skip_prk_steps {skip}", "PNDMScheduler", config, 25)
            config = {**prk, "skip_prk_steps": skip, "steps_offset": 0}
            yield case(f"pndm {spacing} 1000 offset 0, skip_prk_steps {skip}", "PNDMScheduler", config, 1000)
    yield case("pndm defaults", "PNDMScheduler", {}, 10)
    yield case("pndm saved defaults", "PNDMScheduler", json.loads(diffusers.PNDMScheduler().to_json_string()), 10)
    yield case("plms defaults", "plms", {}, 10)
    yield case("plms from a DDIM file", "plms", {**sd, "_class_name": "DDIMScheduler"}, 7)
    yield case("plms from the middle", "plms", sd, 20, first=8)
    yield case("plms from the last step", "plms", sd, 20, first=20)
    for to_one in (True, False):
        for offset in (0, 1):
            config = {**sd, "set_alpha_to_one": to_one, "steps_offset": offset}
            yield case(f"plms set_alpha_to_one {to_one} offset {offset}", "plms", config, 10)
            yield case(f"prk set_alpha_to_one {to_one} offset {offset}", "PNDMScheduler",
                       {**config, "skip_prk_steps": False}, 10)  # fmt: skip
    yield case("plms squaredcos_cap_v2", "plms", {"beta_schedule": "squaredcos_cap_v2"}, 20)
    yield case("prk trained betas", "PNDMScheduler", {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 120}, 11)
    for dtype in HALF_TYPES:
        yield case(f"plms {dtype}", "plms", sd, 20, dtype=dtype)
        yield case(f"prk {dtype}", "PNDMScheduler", {"prediction_type": "v_prediction"}, 10, dtype=dtype)


def timesteps():
    for class_name in ("plms", "PNDMScheduler"):
        for spacing in SPACINGS:
            yield class_name, {"timestep_spacing": spacing}
        yield class_name, {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    for levels in ([0, 999], [501]):
        yield "plms", STABLE_DIFFUSION, None, levels
