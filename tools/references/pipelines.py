"""Records what Python's pipeline gives with and without DeepCache, and exports the pipelines that it ran.

    python tools/references/pipelines.py [--out tests/data]

Writes packages/<variant>/, a model package of each tiny pipeline, and pipelines/<case>.pt, a dictionary of tensors,
strings, numbers and lists that `torch::pickle_load` reads; pipelines/recorded.json lists the cases, the command and the
versions. Fields of a case:

- settings: variant, scheduler (DDIM or PLMS), num_inference_steps, guidance_scale, seed, batch, height and width (of
  the latents), prompts, negative_prompt; eta where it isn't 0; seeds [B] where each image has a generator of its own,
  instead of one with `seed` for the batch; cache_interval (0: not cached), cache_branch_id, and count: "calls" is this
  library's default, "timestep" is what DeepCache 0.1.1 does, which looks the timestep up in the scheduler's list, and
  so counts the repeated second timestep of PLMS as step 1 again.
- options: further arguments of the pipeline, where there are some.
- inputs: init_latents [B, 4, h, w], which are torch.randn with CPU generators of these seeds.
- results: timesteps [S] and step_latents [S, B, 4, h, w] after each of S calls of the UNet, full_calls (the indices of
  those that ran the whole UNet), latents (the last ones), and in some cases image [B, 3, H, W] in [0, 1], float32.

Embeddings and latents have the variant's dtype: float32, or that of its name.
"""

import argparse
import importlib.metadata
import json
import platform
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import DDIMScheduler, PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor

from tiny_pipelines import ROOT, VARIANTS, tiny_pipeline

sys.path.insert(0, str(ROOT / "tools"))
from export import export, quiet  # noqa: E402  (tools/ is no package)

COMMAND = "python tools/references/pipelines.py"
PROMPTS = ["red heart!", "panda, face", "a green apple & 2 flowers"]
BRANCHES = {"sd1": 12, "sd2": 12, "one_layer": 8, "three_layers": 16, "sd1_bfloat16": 12, "sdxl": 9}


@dataclass(frozen=True)
class Case:
    variant: str
    scheduler: str = "DDIM"
    num_inference_steps: int = 8
    guidance_scale: float = 5.0
    cache_interval: int = 0
    cache_branch_id: int = 0
    count: str = "calls"
    batch: int = 1
    height: int = 8
    width: int = 8
    negative_prompt: str = ""
    seed: int = 1
    seeds: tuple[int, ...] = ()
    eta: float = 0.0
    image: bool = False
    options: dict = field(default_factory=dict)  # further arguments of the pipeline
    label: str = ""  # of the options, in the name

    @property
    def name(self):
        parts = [
            self.variant,
            self.scheduler.lower(),
            f"{self.batch}x{self.height}x{self.width}",
            f"{self.num_inference_steps}steps",
        ]
        parts += ["unguided"] * (self.guidance_scale <= 1) + ["negative"] * bool(self.negative_prompt)
        parts += [f"eta{self.eta:g}".replace(".", "_")] * (self.eta > 0)
        parts += [f"{len(self.seeds)}seeds"] * bool(self.seeds) + [self.label] * bool(self.label)
        parts += (
            [f"interval{self.cache_interval}", f"branch{self.cache_branch_id}"] if self.cache_interval else ["uncached"]
        )
        return "_".join(parts + ["timestep"] * (self.count == "timestep"))

    @property
    def settings(self):
        """Without those that say nothing."""
        optional = ("seeds", "eta", "options", "label")
        return {key: value for key, value in asdict(self).items() if key not in optional or value}

    def generator(self):
        """New generators, as the pipeline takes them."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds or (self.seed,)]
        return generators if self.seeds else generators[0]


def cases():
    for variant in "sd1", "sd2", "one_layer", "three_layers":
        branches = BRANCHES[variant]
        yield Case(variant, image=True)
        yield Case(variant, scheduler="PLMS")
        for branch in range(branches):
            yield Case(variant, cache_interval=3, cache_branch_id=branch, image=branch == 0)
        yield Case(variant, scheduler="PLMS", cache_interval=3, cache_branch_id=1, image=True)
        for count in (
            "calls",
            "timestep",
        ):  # which differ with interval 2 only: the repeated timestep is the third call, index 2 or 1
            yield Case(variant, scheduler="PLMS", cache_interval=2, cache_branch_id=0, count=count)
        for size in (12, 20), (13, 17):  # divisible by the UNet's strides in no level but the first two; in none
            shape = dict(batch=3, height=size[0], width=size[1])
            yield Case(variant, **shape)
            yield Case(variant, cache_interval=2, cache_branch_id=branches // 2, **shape)
        yield Case(variant, guidance_scale=1.0)
        yield Case(variant, guidance_scale=1.0, cache_interval=3)
    yield Case("sd1", num_inference_steps=10)
    yield Case("sd1", scheduler="PLMS", num_inference_steps=10)
    for scheduler, count in ("DDIM", "calls"), ("PLMS", "calls"), ("PLMS", "timestep"):
        for interval in (1, 2, 3, 5, 7):
            yield Case(
                "sd1",
                scheduler=scheduler,
                count=count,
                cache_interval=interval,
                cache_branch_id=2,
                num_inference_steps=10,
            )
    yield Case("sd1", scheduler="PLMS", batch=3, height=13, width=17, cache_interval=3, cache_branch_id=4, image=False)
    yield Case("sd1", height=13, width=17, cache_interval=5, cache_branch_id=0, image=True)
    yield Case("sd2", negative_prompt="blue!", cache_interval=2, cache_branch_id=0)
    for interval in (0, 3):
        yield Case("sd1", eta=0.5, cache_interval=interval)
        # Guidance multiplies rounding differences: at 5, other kernels would differ by half as much as caching does.
        yield Case("sd1_bfloat16", guidance_scale=2.0, cache_interval=interval, image=interval == 0)
    yield from options_cases("sd1", guidance_rescale=dict(guidance_rescale=0.7), clip_skip=dict(clip_skip=1))
    yield Case("sdxl", image=True)
    for branch in range(BRANCHES["sdxl"]):
        yield Case("sdxl", cache_interval=3, cache_branch_id=branch, image=branch == 0)
    yield Case("sdxl", scheduler="PLMS", cache_interval=2, cache_branch_id=1)
    yield Case("sdxl", guidance_scale=1.0)
    yield Case("sdxl", negative_prompt="blue!")
    for interval in (0, 5):
        yield Case("sdxl", batch=3, height=13, width=17, cache_interval=interval, cache_branch_id=interval)
    yield from options_cases(
        "sdxl",
        guidance_rescale=dict(guidance_rescale=0.7),
        clip_skip=dict(clip_skip=1),
        prompt_2=dict(prompt_2="panda", negative_prompt_2="sun"),
        sizes=dict(original_size=(64, 96), target_size=(80, 72), crops_coords_top_left=(8, 4)),
        negative_sizes=dict(
            negative_original_size=(32, 40), negative_target_size=(48, 56), negative_crops_coords_top_left=(2, 6)
        ),
    )
    yield Case("sd1", eta=1.0, batch=2, seeds=(7, 3), cache_interval=3)
    yield Case("sd1", scheduler="PLMS", batch=2, seeds=(7, 3))


def options_cases(variant, **labelled):
    for label, options in labelled.items():
        yield Case(variant, options=options, label=label)


# ---- DeepCache, two ways


class CountingHelper(DeepCacheSDHelper):
    """DeepCache's helper, with steps counted by calls of the UNet instead of looked up by timestep."""

    def wrap_unet_forward(self):
        calls, forward = 0, self.pipe.unet.forward
        self.function_dict["unet_forward"] = forward

        def counting_forward(*args, **kwargs):
            nonlocal calls
            self.cur_timestep, calls = calls, calls + 1
            return forward(*args, **kwargs)

        self.pipe.unet.forward = counting_forward


@contextmanager
def helper(pipe, case):
    """Runs the pipeline under DeepCache's own helper, which knows two layers a block only."""
    deepcache = (DeepCacheSDHelper if case.count == "timestep" else CountingHelper)(pipe=pipe)
    deepcache.set_params(cache_interval=case.cache_interval, cache_branch_id=case.cache_branch_id)
    deepcache.enable()
    try:
        yield
    finally:
        deepcache.disable()


@contextmanager
def cut(pipe, case):
    """A model of DeepCache for any number of layers: whole runs, whose value of the cached place is replaced.

    The place is the first operand of the skip concatenation that is `cache_branch_id` from the last.
    Yields the list of full calls' indices.
    """
    forward, concatenate = pipe.unet.forward, torch.cat
    full_calls, calls, first, places, feature = [], 0, None, None, None

    def cut_forward(sample, timestep, *args, **kwargs):
        nonlocal calls, first, places, feature
        step = calls if case.count == "calls" else pipe.scheduler.timesteps.tolist().index(timestep.item())
        first = step if first is None else first
        full, operands = (step - first) % case.cache_interval == 0, []

        def cat(tensors, dim=0):
            if dim == 1 and len(tensors) == 2:
                operands.append(tensors[0])
                if not full and len(operands) == places - case.cache_branch_id:
                    tensors = [feature, tensors[1]]
            return concatenate(tensors, dim=dim)

        with mock.patch.object(torch, "cat", cat):
            result = forward(sample, timestep, *args, **kwargs)
        if full:
            places, feature = len(operands), operands[-1 - case.cache_branch_id]
            full_calls.append(calls)
        calls += 1
        return result

    pipe.unet.forward = cut_forward
    try:
        yield full_calls
    finally:
        del pipe.unet.forward
    if places != BRANCHES[case.variant]:
        raise RuntimeError(f"{case.variant}: {places} skip concatenations, expected {BRANCHES[case.variant]}")


# ---- Recording


def run(pipe, case, prompts):
    """The latents after each call of the UNet, and the timesteps."""
    steps, timesteps = [], []
    negative = [case.negative_prompt] * case.batch if case.negative_prompt or case.variant != "sdxl" else None

    def keep(_, index, timestep, tensors):
        steps.append(tensors["latents"].clone())
        timesteps.append(int(timestep))
        return {}

    latents = pipe(
        prompts,
        negative_prompt=negative,
        height=case.height * 8,
        width=case.width * 8,
        num_inference_steps=case.num_inference_steps,
        guidance_scale=case.guidance_scale,
        eta=case.eta,
        generator=case.generator(),
        output_type="latent",
        callback_on_step_end=keep,
        **case.options,
    ).images
    assert torch.equal(latents, steps[-1])
    return torch.stack(steps), torch.tensor(timesteps)


def record(pipe, case):
    config = pipe.scheduler.config
    pipe.scheduler = (
        DDIMScheduler.from_config(config)
        if case.scheduler == "DDIM"
        else PNDMScheduler.from_config(config, skip_prk_steps=True)
    )
    prompts = PROMPTS[: case.batch]

    shape = (case.batch, 4, case.height, case.width)
    init_latents = randn_tensor(shape, generator=case.generator(), dtype=pipe.dtype)  # as the pipeline draws them
    with cut(pipe, case) if case.cache_interval else nullcontext() as full_calls:
        step_latents, timesteps = run(pipe, case, prompts)
    if case.cache_interval and case.variant not in ("one_layer", "three_layers"):
        with helper(pipe, case):
            if not torch.equal(run(pipe, case, prompts)[0], step_latents):
                raise RuntimeError(f"{case.name}: DeepCacheSDHelper and the model of the cut differ")
    result = case.settings | dict(
        prompts=prompts,
        init_latents=init_latents,
        timesteps=timesteps,
        step_latents=step_latents,
        latents=step_latents[-1].clone(),
        full_calls=list(range(len(timesteps))) if full_calls is None else full_calls,
        command=COMMAND,
        versions=versions(),
    )
    if case.seeds:
        result["seeds"] = torch.tensor(case.seeds)
    del result["image"]
    if case.image:
        decoded = pipe.vae.decode(result["latents"] / pipe.vae.config.scaling_factor).sample
        result["image"] = (decoded / 2 + 0.5).clamp(0, 1).float()
    return result


def versions():
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "DeepCache", "numpy")
    }


def check_distinct(results):
    """What a test couldn't tell apart isn't worth recording.

    Runs of equal inputs differ by 1e-4 of the largest latent at least, unless full calls and branch are the same too.
    """
    groups = {}
    for name, result in results.items():
        key = tuple(
            str(result.get(k))
            for k in (
                "variant",
                "scheduler",
                "num_inference_steps",
                "guidance_scale",
                "negative_prompt",
                "batch",
                "height",
                "width",
                "eta",
                "seeds",
                "options",
                "label",
            )
        )
        groups.setdefault(key, []).append((name, result))
    smallest = 1.0
    for group in groups.values():
        for i, (name, result) in enumerate(group):
            for other_name, other in group[:i]:
                latents, all_full = result["latents"], len(result["full_calls"]) == len(result["timesteps"])
                if result["full_calls"] == other["full_calls"] and (
                    all_full or result["cache_branch_id"] == other["cache_branch_id"]
                ):
                    if not torch.equal(latents, other["latents"]):
                        raise RuntimeError(f"{name} and {other_name} differ")
                    continue
                share = ((latents - other["latents"]).abs().max() / latents.abs().max()).item()
                smallest = min(smallest, share)
                if share < 1e-4:
                    raise RuntimeError(f"{name} and {other_name} differ by {share:.2g} only")
    print(f"runs of equal inputs differ by {smallest:.2g} of the largest latent at least")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    pipes = {variant: tiny_pipeline(variant) for variant in VARIANTS}
    for variant, pipe in pipes.items():
        with tempfile.TemporaryDirectory() as folder:
            pipe.save_pretrained(folder)
            export(
                folder,
                args.out / "packages" / variant,
                dtype=(dtype := str(pipe.dtype).removeprefix("torch.")),
                storage="float16" if dtype == "float32" else dtype,
                force=True,
                say=lambda line, variant=variant: print(f"{variant}: {line}", flush=True),
            )
    results = {case.name: record(pipes[case.variant], case) for case in cases()}
    check_distinct(results)
    folder = args.out / "pipelines"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.pt"):
        old.unlink()
    for name, result in results.items():
        torch.save(result, folder / f"{name}.pt")
    table = {case.name: case.settings for case in cases()}
    (folder / "recorded.json").write_text(
        json.dumps({"command": COMMAND, "versions": versions(), "cases": table}, indent=1) + "\n"
    )
    print(f"{len(results)} cases, {sum(file.stat().st_size for file in folder.glob('*.pt')) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
