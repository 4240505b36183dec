import json

import diffusers

from scheduler_cases.common import HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case

NAMES = {"euler": "EulerDiscreteScheduler"}
SD = {"_class_name": "EulerDiscreteScheduler", **STABLE_DIFFUSION}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
# Stable Video Diffusion's own.
VIDEO = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "v_prediction", "sigma_max": 700.0, "sigma_min": 0.002,
    "steps_offset": 1, "timestep_spacing": "leading", "timestep_type": "continuous", "trained_betas": None,
    "use_karras_sigmas": True,
}  # fmt: skip


def cases():
    for spacing in SPACINGS:
        sd = {**SD, "timestep_spacing": spacing}
        for steps in (1, 2, 3, 7, 20, 50, 61, 999):
            yield case(f"euler {spacing} {steps}", "euler", sd, steps)
        for prediction in ("sample", "original_sample", "v_prediction"):
            yield case(f"euler {spacing} {prediction}", "euler", {**sd, "prediction_type": prediction}, 12)
        for sigmas in ("karras", "exponential", "beta"):
            for steps in (1, 2, 7, 20, 61):
                yield case(f"euler {spacing} {sigmas} {steps}", "euler", {**sd, f"use_{sigmas}_sigmas": True}, steps)
        yield case(f"euler {spacing} zero snr", "euler",
                   {**sd, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, 12)  # fmt: skip
        yield case(f"euler {spacing} continuous", "euler", {**sd, **CONTINUOUS}, 7)
        yield case(f"euler {spacing} sigma_min", "euler", {**sd, "final_sigmas_type": "sigma_min"}, 7)
    for steps in (1, 2, 20):
        log_linear = {**SD, "interpolation_type": "log_linear"}
        yield case(f"euler log_linear {steps}", "euler", log_linear, steps)
        yield case(f"euler log_linear continuous {steps}", "euler", {**log_linear, **CONTINUOUS}, steps)
        yield case(f"euler log_linear karras {steps}", "euler", {**log_linear, "use_karras_sigmas": True}, steps)
        yield case(f"euler video {steps}", "EulerDiscreteScheduler", VIDEO, steps)
    for sigmas in ("karras", "exponential", "beta"):
        config = {**SD, f"use_{sigmas}_sigmas": True}
        yield case(f"euler {sigmas} sigma_min", "euler", {**config, "sigma_min": 0.1}, 7)
        yield case(f"euler {sigmas} sigma_max", "euler", {**config, "sigma_max": 5}, 7)
        # Beyond the training's: the first three timesteps are one.
        yield case(f"euler {sigmas} wide", "euler", {**config, "sigma_min": 0.002, "sigma_max": 80.0}, 12)
        yield case(f"euler {sigmas} wide from the middle", "euler",
                   {**config, "sigma_min": 0.002, "sigma_max": 80.0}, 12, first=1)  # fmt: skip
        yield case(f"euler {sigmas} final sigma_min", "euler", {**config, "final_sigmas_type": "sigma_min"}, 7)
    yield case("euler sigma_min without karras", "euler", {**SD, "sigma_min": 0.1, "sigma_max": 5.0}, 7)
    yield case("euler continuous epsilon", "euler", {**SD, "timestep_type": "continuous"}, 7)
    yield case("euler defaults", "euler", {}, 10)
    yield case("euler saved defaults", "euler", json.loads(diffusers.EulerDiscreteScheduler().to_json_string()), 10)
    yield case("euler from a PNDM file", "euler", {**SD, "_class_name": "PNDMScheduler"}, 7)
    yield case("euler from the middle", "euler", SD, 20, first=8)
    yield case("euler from the last step", "euler", SD, 20, first=19)
    yield case("euler squaredcos_cap_v2", "euler", {"beta_schedule": "squaredcos_cap_v2"}, 12)
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train}
        yield case(f"euler trained betas {train}", "euler", config, 11)
        yield case(f"euler trained betas {train} karras", "euler", {**config, "use_karras_sigmas": True}, 11)
    for prediction in ("epsilon", "sample", "v_prediction"):
        config = {**SD, "prediction_type": prediction}
        for churn in (2.0, 100.0):
            yield case(f"euler {prediction} churn {churn}", "euler", config, 12, s_churn=churn, seeds=[3])
    yield case("euler churn within bounds", "euler", SD, 12, s_churn=3.0, s_tmin=0.1, s_tmax=3.0, s_noise=1.01,
               seeds=[4])  # fmt: skip
    yield case("euler churn, a seed for each item", "euler", SD, 8, s_churn=3.0, seeds=[3, 2**40 + 1])
    for dtype in HALF_TYPES:
        for prediction in ("epsilon", "sample", "v_prediction"):
            config = {**SD, "prediction_type": prediction}
            yield case(f"euler {dtype} {prediction}", "euler", config, 20, dtype=dtype)
            yield case(f"euler {dtype} {prediction} churn", "euler", config, 7, dtype=dtype, s_churn=3.0, seeds=[9])
        yield case(f"euler {dtype} karras", "euler", {**SD, "use_karras_sigmas": True}, 10, dtype=dtype)
        yield case(f"euler {dtype} leading", "euler", {**SD, "timestep_spacing": "leading"}, 10, dtype=dtype)


def timesteps():
    for spacing in SPACINGS:
        for train in (250, 1000):
            yield "euler", {"timestep_spacing": spacing, "num_train_timesteps": train}
    yield "euler", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    yield "euler", SD, 7, [999.0, 832.5]
    yield "euler", {**SD, "timestep_spacing": "leading"}, 20, [451.0]
