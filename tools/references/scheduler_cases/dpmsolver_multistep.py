import json

import diffusers

from scheduler_cases.common import FLOW, HALF_TYPES, SPACINGS, STABLE_DIFFUSION, TRAINED_BETAS, case, flow_cases

NAMES = {
    "dpm++_2m": "DPMSolverMultistepScheduler",
    "dpm++_2m_karras": "DPMSolverMultistepScheduler",
    "dpm++_2m_sde": "DPMSolverMultistepScheduler",
    "dpm++_2m_sde_karras": "DPMSolverMultistepScheduler",
}
SETTINGS = {
    "dpm++_2m_karras": {"use_karras_sigmas": True},
    "dpm++_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "dpm++_2m_sde_karras": {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
}
ALGORITHMS = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
SD = {"_class_name": "DPMSolverMultistepScheduler", **STABLE_DIFFUSION}


def algorithm(name):
    """With the last sigma that the algorithm needs, and the seeds that it draws from."""
    settings = {"algorithm_type": name, "final_sigmas_type": "zero" if name.endswith("++") else "sigma_min"}
    return settings, {"seeds": [5]} if name.startswith("sde") else {}


def order_cases():
    """Every formula, at every length that changes which ones are used."""
    for name in ALGORITHMS:
        settings, options = algorithm(name)
        for order in (1, 2) if name == "sde-dpmsolver" else (1, 2, 3):
            for solver in ("midpoint", "heun") if order == 2 else ("midpoint",):
                config = {**SD, **settings, "solver_order": order, "solver_type": solver}
                # In fewer steps, the SDE's noise makes samples large.
                for steps in (7, 14, 15) if name == "sde-dpmsolver" else (1, 3, 14, 15):
                    yield case(f"{name} {order} {solver} {steps}", "dpm++_2m", config, steps, **options)
        for final in ("zero", "sigma_min") if name.endswith("++") else ("sigma_min",):
            for lower in (True, False):
                for euler in (True, False):
                    config = {**SD, **settings, "final_sigmas_type": final, "lower_order_final": lower,
                              "euler_at_final": euler, "solver_order": 2 if name == "sde-dpmsolver" else 3}  # fmt: skip
                    for steps in (9, 16):
                        yield case(f"{name} {final}, lower_order_final {lower}, euler_at_final {euler}, {steps}",
                                   "dpm++_2m", config, steps, **options)  # fmt: skip


def sigma_cases():
    for spacing in SPACINGS:
        for steps in (1, 2, 3, 7, 20, 50, 61, 100, 499):
            yield case(f"{spacing} {steps}", "dpm++_2m", {**SD, "timestep_spacing": spacing}, steps)
        for prediction in ("sample", "v_prediction"):
            for name in ALGORITHMS:
                settings, options = algorithm(name)
                config = {**SD, **settings, "timestep_spacing": spacing, "prediction_type": prediction}
                yield case(f"{name} {spacing} {prediction}", "dpm++_2m", config, 12, **options)
        for offset in (0, 1):
            config = {**SD, "timestep_spacing": spacing, "steps_offset": offset}
            yield case(f"{spacing} offset {offset}", "dpm++_2m", config, 10)
        config = {**SD, "timestep_spacing": spacing, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        yield case(f"{spacing} zero snr", "dpm++_2m", config, 20)
        # At -5.1 timesteps above 995 or so are left out, at -2 those above 850.
        for clipped in (-5.1, -2.0):
            config = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": clipped, "timestep_spacing": spacing}
            for steps in (9, 20):
                yield case(f"{spacing} lambda_min_clipped {clipped} {steps}", "dpm++_2m", config, steps)
    for sigmas in SIGMAS:
        for final in ("zero", "sigma_min"):
            for order in (2, 3):
                config = {**SD, sigmas: True, "final_sigmas_type": final, "solver_order": order}
                for steps in (1, 2, 3, 14):
                    yield case(f"{sigmas} {final} {order} {steps}", "dpm++_2m", config, steps)
        for steps in (20, 50, 100):
            yield case(f"{sigmas} {steps}", "dpm++_2m", {**SD, sigmas: True}, steps)
        # Longer than 14, a run keeps its order to the end, where the noise level stays as it is.
        config = {**SD, sigmas: True, "final_sigmas_type": "sigma_min"}
        yield case(f"{sigmas} sigma_min 20", "dpm++_2m", config, 20)
        config = {**SD, sigmas: True, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}
        if sigmas == "use_beta_sigmas":  # from this schedule's highest sigma, their steps make samples large
            config["sigma_max"] = 50.0
        yield case(f"{sigmas} cosine", "dpm++_2m", config, 20)
        config = {**SD, sigmas: True, "sigma_min": 0.1, "sigma_max": 10.0}
        yield case(f"{sigmas} limits", "dpm++_2m", config, 12)
    yield case("lu and beta", "dpm++_2m", {**SD, "use_lu_lambdas": True, "use_beta_sigmas": True}, 12)
    yield case("lu and exponential", "dpm++_2m", {**SD, "use_lu_lambdas": True, "use_exponential_sigmas": True}, 12)
    yield case("lu and karras", "dpm++_2m", {**SD, "use_lu_lambdas": True, "use_karras_sigmas": True}, 12)


def flow_solver_cases():
    for solver in ("midpoint", "heun"):
        config = {**FLOW, "algorithm_type": "sde-dpmsolver++", "solver_type": solver}
        yield case(f"flow sde {solver}", "dpm++_2m", config, 12, seeds=[5])
        yield case(f"flow {solver}", "dpm++_2m", {**FLOW, "solver_type": solver, "lower_order_final": False}, 12)


def cases():
    yield from order_cases()
    yield from sigma_cases()
    for class_name in NAMES:
        for steps in (7, 20):
            yield case(f"{class_name} {steps}", class_name, SD, steps, seeds=[6])
    for steps in (10, 50):
        yield case(f"defaults {steps}", "DPMSolverMultistepScheduler", {}, steps)
    saved = json.loads(diffusers.DPMSolverMultistepScheduler().to_json_string())  # with -Infinity
    yield case("saved defaults", "dpm++_2m", saved, 10)
    yield case("from a PNDM file", "dpm++_2m", {**SD, "_class_name": "PNDMScheduler"}, 7)
    for name in ("UniPCMultistepScheduler", "DEISMultistepScheduler"):  # with other types of solver and algorithm
        saved = {**json.loads(getattr(diffusers, name)().to_json_string()), "final_sigmas_type": "sigma_min"}
        yield case(f"from a {name}'s file", "dpm++_2m", saved, 7)
    for name in ALGORITHMS:
        settings, options = algorithm(name)
        for most in (1.0, 2.5):
            for prediction in ("epsilon", "sample", "v_prediction"):
                config = {**SD, **settings, "thresholding": True, "dynamic_thresholding_ratio": 0.8,
                          "sample_max_value": most, "prediction_type": prediction}  # fmt: skip
                yield case(f"{name} {prediction} thresholding {most}", "dpm++_2m", config, 10, **options)
        for dtype in HALF_TYPES:
            for order in (2, 3):
                if name != "sde-dpmsolver" or order == 2:
                    config = {**SD, **settings, "solver_order": order}
                    yield case(f"{name} {order} {dtype}", "dpm++_2m", config, 20, dtype=dtype, **options)
        config = {**SD, **settings, "solver_order": 2 if name == "sde-dpmsolver" else 3}
        for first in (8, 18, 19):
            yield case(f"{name} from step {first}", "dpm++_2m", config, 20, first=first, **options)
    for dtype in HALF_TYPES:
        config = {"thresholding": True, "prediction_type": "v_prediction", "use_karras_sigmas": True}
        yield case(f"{dtype} thresholding", "dpm++_2m", config, 10, dtype=dtype)
    yield case("karras from the middle", "dpm++_2m_karras", SD, 20, first=9)
    yield case("sde, a seed for each item", "dpm++_2m_sde", SD, 12, seeds=[3, 2**40 + 1])
    for schedule in ("linear", "squaredcos_cap_v2"):
        yield case(f"{schedule}", "dpm++_2m", {"beta_schedule": schedule, "lambda_min_clipped": -5.1}, 20)
    for train in (100, 120):
        config = {"trained_betas": TRAINED_BETAS, "num_train_timesteps": train, "lambda_min_clipped": -3.0}
        yield case(f"trained betas {train}", "dpm++_2m", config, 11)
    yield from flow_cases("dpm++_2m")
    yield from flow_solver_cases()


def timesteps():
    for spacing in SPACINGS:
        yield "dpm++_2m", {"timestep_spacing": spacing}
        yield "dpm++_2m", {"timestep_spacing": spacing, "num_train_timesteps": 250}
        yield (
            "dpm++_2m",
            {"timestep_spacing": spacing, "lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
        )
    yield "dpm++_2m", {"timestep_spacing": "leading", "steps_offset": 1}


def add_noise():
    for levels in ([999, 500], [749]):
        yield "dpm++_2m", SD, 4, levels
    yield "dpm++_2m_karras", SD, 50, [32, 1]
    yield "dpm++_2m", FLOW, 4, [999, 899]
