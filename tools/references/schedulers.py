"""Records what the schedulers of diffusers compute, for tests/parity/scheduler_test.cpp to compare with.

    python tools/references/schedulers.py [NAME ...] [--output tests/data/schedulers]

Writes a NAME.pt for each module of scheduler_cases, or those named, which torch::pickle_load reads in C++; shared.pt
with what no one scheduler owns; and versions.json with the versions of what made them. Needs torch, diffusers
and scipy (`pip install scipy==1.17.1`), which diffusers takes its beta sigmas from. A stand-in takes the place of the
UNet, so no weights are needed.
"""

import argparse
import importlib
import inspect
import json
import pathlib
import pkgutil
import platform
import sys
from unittest import mock

import diffusers
import numpy
import scipy
import torch
from diffusers.utils.torch_utils import randn_tensor

import scheduler_cases
from generalized_ddim import GeneralizedDDIMScheduler
from scheduler_cases.common import HALF_TYPES, TRAINED_BETAS

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = (2, 4, 6, 5)
SAMPLE_SEED = 20
NOISE_SEED = 21
# Arguments of step, each with the default of the classes that take it.
STEP_ARGUMENTS = {
    "eta": 0.0, "use_clipped_model_output": False,
    "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0,
}  # fmt: skip
CASES = {
    module.name: importlib.import_module(f"scheduler_cases.{module.name}")
    for module in pkgutil.iter_modules(scheduler_cases.__path__)
    if module.name != "common"
}
SHORT_NAMES = {short: name for module in CASES.values() for short, name in module.NAMES.items()}
OWN_CLASSES = {name: own for module in CASES.values() for name, own in getattr(module, "CLASSES", {}).items()}
OWN_CLASSES["GeneralizedDDIMScheduler"] = GeneralizedDDIMScheduler
SETTINGS = {short: settings for module in CASES.values() for short, settings in getattr(module, "SETTINGS", {}).items()}


def stand_in(sample, timestep):
    """Takes the UNet's place: single operations on whole tensors, which C++ repeats bit for bit. As a UNet does, it
    finds most of the sample to be noise: so samples stay near 1, and rounding errors don't grow."""
    return sample * 0.95 - sample * 0.15 / (sample * sample + 1) + 0.1 * timestep / 1000


def stand_in_with_variance(sample, timestep):
    """The same of a UNet that has learned the variance too, in as many channels more: from 0.1 to 1."""
    return torch.cat([stand_in(sample, timestep), (sample * sample + 0.4) / (sample * sample + 4)], dim=1)


def scheduler_class(name):
    return OWN_CLASSES.get(name) or getattr(diffusers, name)


def make_scheduler(class_name, config):
    """As Scheduler::from_json(json, class_name) does: `class_name` may differ from the class that the file names."""
    config = {**config, **SETTINGS.get(class_name, {})}
    class_name = SHORT_NAMES.get(class_name, class_name)
    saved = scheduler_class(config.get("_class_name", class_name)).from_config(config)
    return scheduler_class(class_name).from_config(saved.config)


def int64_tensor(numbers):
    """Also of numbers beyond 32 bits, which torch::pickle_load reads only in tensors."""
    return torch.tensor(numbers, dtype=torch.int64)


def arange(*arguments, original=numpy.arange, **options):
    """np.arange as it is meant: rounding lets a falling one run on for one value too many, about 0, which trailing
    spacing rounds and makes a timestep of -1 that no model knows."""
    values = original(*arguments, **options)
    return values[values > 0.5] if len(arguments) == 3 and arguments[2] < 0 else values


def set_timesteps(scheduler, steps):
    with mock.patch("numpy.arange", arange):
        scheduler.set_timesteps(steps)
    return scheduler.timesteps.clone()


def initial_sample():
    return torch.randn(SIZES, generator=torch.Generator().manual_seed(SAMPLE_SEED))


def record_trajectory(spec):
    scheduler = make_scheduler(spec["class"], spec["config"])
    timesteps = set_timesteps(scheduler, spec["steps"])
    first, seeds = spec.get("first", 0), spec.get("seeds", [])
    options = {name: spec.get(name, default) for name, default in STEP_ARGUMENTS.items()}
    takes = inspect.signature(scheduler.step).parameters
    assert all(name in takes or options[name] == STEP_ARGUMENTS[name] for name in options), spec["name"]
    arguments = {name: value for name, value in options.items() if name in takes}
    if "generator" in takes:
        arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds] or None
    if hasattr(scheduler, "set_begin_index"):  # or it would look the timestep up, and take the second of two equal ones
        scheduler.set_begin_index(first)
    calls = range(first, timesteps.numel())
    # All calls of a short run; of a long one the first four, the last, and three between.
    kept = set(calls) if len(calls) <= 8 else {*calls[:4], *calls[len(calls) // 4 :: len(calls) // 4][:3], calls[-1]}

    init_noise_sigma = float(scheduler.init_noise_sigma)
    sample = initial_sample().to(getattr(torch, spec.get("dtype", "float32"))) * init_noise_sigma
    samples = []
    model = stand_in_with_variance if '"learned' in json.dumps(spec["config"]) else stand_in
    for i in calls:
        output = model(scheduler.scale_model_input(sample, timesteps[i]), timesteps[i].item())
        sample = scheduler.step(output, timesteps[i], sample, **arguments).prev_sample
        assert sample.isfinite().all() and sample.abs().max() < 20 * init_noise_sigma, spec["name"]
        if i in kept:
            samples.append(sample)
    return {
        "name": spec["name"], "class": spec["class"], "config": json.dumps(spec["config"]), "steps": spec["steps"],
        "first": first, **options, "seeds": int64_tensor(seeds), "init_noise_sigma": init_noise_sigma,
        "timesteps": timesteps, "recorded": int64_tensor(sorted(kept)), "samples": torch.stack(samples),
    }  # fmt: skip


def timesteps_hash(timesteps):
    """A polynomial in the timesteps, in 64 bits that wrap; the sign bit is dropped. Of floats, the bits count."""
    if timesteps.dtype == torch.float32:
        timesteps = timesteps.view(torch.int32)
    value = len(timesteps)
    for timestep in timesteps.tolist():
        value = (value * 1000003 + timestep) % 2**64
    return value % 2**63


def record_timesteps(class_name, config):
    """A hash of the timesteps for every number of steps; 0 where there can't be a run."""
    scheduler = make_scheduler(class_name, config)
    train = scheduler.config.num_train_timesteps
    hashes = []
    for steps in range(1, train + 1):
        try:
            timesteps = set_timesteps(scheduler, steps)
        except ValueError:  # too few steps for Runge-Kutta
            hashes.append(0)
            continue
        # Where two steps of a multistep solver begin at one noise level, diffusers divides by 0.
        repeats = "solver_order" in scheduler.config and (scheduler.sigmas[:-1].diff() == 0).any()
        hashes.append(timesteps_hash(timesteps) if timesteps.max() < train and not repeats else 0)
    return {"class": class_name, "config": json.dumps(config), "hashes": int64_tensor(hashes)}


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
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for sizes in ((2, 4, 6, 5), (2, 3)):  # LibTorch draws fewer than 16 values another way
            for seeds in ([0], [2**40 + 1], [11, 12]):
                yield sizes, dtype, seeds


def record_add_noise(class_name, config, steps, timesteps, dtype):
    scheduler = make_scheduler(class_name, config)
    if steps is not None:
        set_timesteps(scheduler, steps)
    levels = torch.tensor(timesteps)
    noise = torch.randn(SIZES, generator=torch.Generator().manual_seed(NOISE_SEED)).to(dtype)
    return {
        "class": class_name, "config": json.dumps(config), "steps": steps or 0, "timesteps": levels, "noise": noise,
        "noised": scheduler.add_noise(initial_sample().to(dtype), noise, levels),
    }  # fmt: skip


def record_shared():
    return {
        "initial": initial_sample(),
        "alphas_cumprod": [record_alphas(config) for config in alphas_cases()],
        "noise": [record_noise(*arguments) for arguments in noise_cases()],
    }


def record(module):
    dtypes = [getattr(torch, name) for name in ("float32", *HALF_TYPES)]
    recorded = {
        "trajectories": [record_trajectory(spec) for spec in module.cases()],
        "timesteps": [record_timesteps(*arguments) for arguments in module.timesteps()],
        "add_noise": [record_add_noise(*arguments, dtype) for dtype in dtypes for arguments in module.add_noise()],
    }
    names = [trajectory["name"] for trajectory in recorded["trajectories"]]
    assert len(names) == len(set(names)), "two trajectories have one name"
    return recorded


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}, shared; all if none is given")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "tests/data/schedulers")
    arguments = parser.parse_args()
    output = arguments.output
    diffusers.logging.set_verbosity_error()
    output.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or ["shared", *CASES]:
        file = output / f"{name}.pt"
        torch.save(record_shared() if name == "shared" else record(CASES[name]), file)
        print(f"{file}: {file.stat().st_size} bytes", file=sys.stderr)
    versions = {
        "command": "python tools/references/schedulers.py",
        "sample_seed": SAMPLE_SEED, "noise_seed": NOISE_SEED,
        "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "numpy": numpy.__version__, "scipy": scipy.__version__,
    }  # fmt: skip
    (output / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
