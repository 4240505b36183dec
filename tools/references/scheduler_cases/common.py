"""What the cases of several schedulers share."""

SPACINGS = ("leading", "trailing", "linspace")
HALF_TYPES = ("float16", "bfloat16")
STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True, "trained_betas": None,
}  # fmt: skip
TRAINED_BETAS = [0.001 + 0.03 * (i / 119) ** 1.5 for i in range(120)]


def case(name, class_name, config, steps, **options):
    """One trajectory. Options: first (index of its first call), dtype, seeds, and arguments of the scheduler's step."""
    return {"name": name, "class": class_name, "config": config, "steps": steps, **options}
