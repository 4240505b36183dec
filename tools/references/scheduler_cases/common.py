"""What the cases of several schedulers share."""

SPACINGS = ("leading", "trailing", "linspace")
HALF_TYPES = ("float16", "bfloat16")
STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True, "trained_betas": None,
}  # fmt: skip
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
TRAINED_BETAS = [0.001 + 0.03 * (i / 119) ** 1.5 for i in range(120)]


def case(name, class_name, config, steps, **options):
    """One trajectory. Options: first (index of its first call), dtype, seeds, and arguments of the scheduler's step."""
    return {"name": name, "class": class_name, "config": config, "steps": steps, **options}


def flow_cases(class_name):
    """Of a multistep solver along a rectified flow."""
    for order in (1, 2, 3):
        for shift in (1.0, 3.0):
            for final in ("zero", "sigma_min"):
                config = {**FLOW, "flow_shift": shift, "final_sigmas_type": final, "solver_order": order}
                for steps in (1, 2, 3, 20):
                    yield case(f"flow {shift} {final} {order} {steps}", class_name, config, steps)
    for prediction in ("sample", "v_prediction"):  # of small alphas, epsilon makes samples large
        yield case(f"flow sigmas, {prediction}", class_name, {**FLOW, "prediction_type": prediction}, 12)
    for dtype in HALF_TYPES:
        yield case(f"flow {dtype}", class_name, FLOW, 12, dtype=dtype)
    yield case("flow from the middle", class_name, FLOW, 20, first=9)
    yield case("flow thresholding", class_name, {**FLOW, "thresholding": True}, 10)
