"""Records what the schedulers of diffusers compute, for tests/parity/scheduler_test.cpp to compare with.

    python tools/references/schedulers.py [--output tests/data/schedulers]

Writes recorded.pt, which torch::pickle_load reads in C++, and versions.json with the versions of what made it. Needs
torch and diffusers. A stand-in takes the place of the UNet, so no weights are needed.
"""

import argparse
import json
import pathlib
import platform
import sys

import diffusers
import numpy
import torch
from diffusers.utils.torch_utils import randn_tensor

SIZES = (2, 4, 6, 5)
SAMPLE_SEED = 20
NOISE_SEED = 21
SPACINGS = ("leading", "trailing", "linspace")
STABLE_DIFFUSION = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True, "trained_betas": None,
}  # fmt: skip
TRAINED_BETAS = [0.001 + 0.03 * (i / 119) ** 1.5 for i in range(120)]
HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def stand_in(sample, timestep):
    """Takes the UNet's place: single operations on whole tensors, which C++ repeats bit for bit. As a UNet does, it
    finds most of the sample to be noise: so samples stay near 1, and rounding errors don't grow."""
    return sample * 0.95 - sample * 0.15 / (sample * sample + 1) + 0.1 * timestep / 1000


def make_scheduler(class_name, config):
    """As Scheduler::from_json(json, class_name) does: `class_name` may differ from the class that the file names."""
    if class_name == "plms":
        config = {**config, "skip_prk_steps": True}
    class_name = {"ddim": "DDIMScheduler", "plms": "PNDMScheduler"}.get(class_name, class_name)
    saved = getattr(diffusers, config.get("_class_name", class_name)).from_config(config)
    return getattr(diffusers, class_name).from_config(saved.config)


def int64_tensor(numbers):
    """Also of numbers beyond 32 bits, which torch::pickle_load reads only in tensors."""
    return torch.tensor(numbers, dtype=torch.int64)


def run_timesteps(scheduler, steps):
    """The timesteps of a run. Where rounding lets np.arange run on for one value too many, that value, a timestep of
    -1, is left out: diffusers would look up the alpha of the other end with it."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if timesteps.numel() > 1 and timesteps[-1] == -1:
        timesteps = timesteps[:-1]
    return timesteps.clone()


def case(name, class_name, config, steps, **options):
    return {"name": name, "class": class_name, "config": config, "steps": steps, **options}


def ddim_cases():
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
                           eta=eta, seeds=[7], use_clipped=clipped)  # fmt: skip
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


def pndm_cases():
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


def initial_sample():
    return torch.randn(SIZES, generator=torch.Generator().manual_seed(SAMPLE_SEED))


def record_trajectory(spec):
    scheduler = make_scheduler(spec["class"], spec["config"])
    timesteps = run_timesteps(scheduler, spec["steps"])
    first, eta, seeds = spec.get("first", 0), spec.get("eta", 0.0), spec.get("seeds", [])
    generators = [torch.Generator().manual_seed(seed) for seed in seeds] or None
    calls = range(first, timesteps.numel())
    # All calls of a short run; of a long one the first four, the last, and three between.
    kept = set(calls) if len(calls) <= 8 else {*calls[:4], *calls[len(calls) // 4 :: len(calls) // 4][:3], calls[-1]}

    sample = initial_sample().to(HALF_TYPES.get(spec.get("dtype"), torch.float32))
    samples = []
    for i in calls:
        arguments = {}
        if isinstance(scheduler, diffusers.DDIMScheduler):
            arguments = {
                "eta": eta,
                "use_clipped_model_output": spec.get("use_clipped", False),
                "generator": generators,
            }
        output = stand_in(sample, int(timesteps[i]))
        sample = scheduler.step(output, timesteps[i], sample, **arguments).prev_sample
        assert sample.isfinite().all() and sample.abs().max() < 20, spec["name"]
        if i in kept:
            samples.append(sample)
    return {
        "name": spec["name"], "class": spec["class"], "config": json.dumps(spec["config"]), "steps": spec["steps"],
        "first": first, "eta": eta, "seeds": int64_tensor(seeds), "use_clipped": spec.get("use_clipped", False),
        "timesteps": timesteps, "recorded": int64_tensor(sorted(kept)), "samples": torch.stack(samples),
    }  # fmt: skip


def timesteps_hash(timesteps):
    """A polynomial in the timesteps, in 64 bits that wrap; the sign bit is dropped."""
    value = len(timesteps)
    for timestep in timesteps:
        value = (value * 1000003 + timestep) % 2**64
    return value % 2**63


def record_timesteps(class_name, config):
    """A hash of the timesteps for every number of steps; 0 where there can't be a run."""
    scheduler = make_scheduler(class_name, config)
    train = scheduler.config.num_train_timesteps
    hashes = []
    for steps in range(1, train + 1):
        try:
            timesteps = run_timesteps(scheduler, steps).tolist()
        except ValueError:  # too few steps for Runge-Kutta
            timesteps = [train]
        hashes.append(timesteps_hash(timesteps) if max(timesteps) < train else 0)
    return {"class": class_name, "config": json.dumps(config), "hashes": int64_tensor(hashes)}


def timesteps_cases():
    for spacing in SPACINGS:
        for class_name in ("ddim", "plms", "PNDMScheduler"):
            yield class_name, {"timestep_spacing": spacing}
        for train in (250, 2000):
            yield "ddim", {"timestep_spacing": spacing, "num_train_timesteps": train}
    for class_name in ("ddim", "plms", "PNDMScheduler"):
        yield class_name, {"timestep_spacing": "leading", "steps_offset": 1}


def record_alphas(config):
    return {"config": json.dumps(config), "alphas_cumprod": make_scheduler("ddim", config).alphas_cumprod.clone()}


def alphas_cases():
    for rescale in (False, True):
        for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            yield {"beta_schedule": schedule, "rescale_betas_zero_snr": rescale}
        yield {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "rescale_betas_zero_snr": rescale,
        }
        yield {"trained_betas": TRAINED_BETAS, "num_train_timesteps": 120, "rescale_betas_zero_snr": rescale}
    yield {"num_train_timesteps": 1}


def record_noise(sizes, dtype, seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = [randn_tensor(sizes, generator=generators, dtype=dtype) for _ in range(2)]
    return {"seeds": int64_tensor(seeds), "draws": torch.stack(draws)}


def noise_cases():
    for dtype in (torch.float32, torch.float64, *HALF_TYPES.values()):
        for sizes in ((2, 4, 6, 5), (2, 3)):  # LibTorch draws fewer than 16 values another way
            for seeds in ([0], [2**40 + 1], [11, 12]):
                yield sizes, dtype, seeds


def record_add_noise(class_name, dtype, timesteps):
    scheduler = make_scheduler(class_name, STABLE_DIFFUSION)
    noise = torch.randn(SIZES, generator=torch.Generator().manual_seed(NOISE_SEED)).to(dtype)
    noised = scheduler.add_noise(initial_sample().to(dtype), noise, torch.tensor(timesteps))
    return {
        "class": class_name, "config": json.dumps(STABLE_DIFFUSION), "timesteps": torch.tensor(timesteps),
        "noise": noise, "noised": noised,
    }  # fmt: skip


def add_noise_cases():
    for dtype in (torch.float32, *HALF_TYPES.values()):
        for class_name in ("ddim", "plms"):
            for timesteps in ([0, 999], [501]):
                yield class_name, dtype, timesteps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default="tests/data/schedulers")
    output = parser.parse_args().output
    diffusers.logging.set_verbosity_error()
    recorded = {
        "initial": initial_sample(),
        "trajectories": [record_trajectory(spec) for cases in (ddim_cases, pndm_cases) for spec in cases()],
        "timesteps": [record_timesteps(*arguments) for arguments in timesteps_cases()],
        "alphas_cumprod": [record_alphas(config) for config in alphas_cases()],
        "noise": [record_noise(*arguments) for arguments in noise_cases()],
        "add_noise": [record_add_noise(*arguments) for arguments in add_noise_cases()],
    }
    names = [trajectory["name"] for trajectory in recorded["trajectories"]]
    assert len(names) == len(set(names)), "two trajectories have one name"
    output.mkdir(parents=True, exist_ok=True)
    torch.save(recorded, output / "recorded.pt")
    versions = {
        "command": "python tools/references/schedulers.py",
        "sample_seed": SAMPLE_SEED, "noise_seed": NOISE_SEED,
        "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "numpy": numpy.__version__,
    }  # fmt: skip
    (output / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    print(f"{len(names)} trajectories, {(output / 'recorded.pt').stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
