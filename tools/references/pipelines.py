"""Records what Python's pipeline gives with and without DeepCache, and exports the pipelines that it ran.

    python tools/references/pipelines.py [--out tests/data]

Writes packages/<variant>/, a model package of each tiny pipeline, and pipelines/<case>.pt, a dictionary of tensors,
strings, numbers and lists that `torch::pickle_load` reads; pipelines/recorded.json lists the cases, the command and the
versions. Fields of a case:

- settings: variant, scheduler (a short name of this library), num_inference_steps, guidance_scale (absent: the
  pipeline's own), seed, batch, height and width (of the latents), prompts, negative_prompt; eta where it isn't 0; seeds
  [B] where each image has a generator of its own, instead of one with `seed` for the batch; cache_interval (0: not
  cached), cache_branch_id, and count: "calls" is this library's default, "timestep" is what DeepCache 0.1.1 does, which
  looks the timestep up in the scheduler's list, and so counts the repeated second timestep of PLMS as step 1 again.
- options: further arguments of the pipeline, where there are some.
- inputs: init_latents [B, 4, h, w], which are torch.randn with CPU generators of these seeds; with an image there is
  input_image instead, uint8 [n, 3, H, W] (to be divided by 255), or latents, and in some cases input_mask, uint8
  [m, 1, H, W].
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
from pathlib import Path
from unittest import mock

import diffusers
import torch
from DeepCache import DeepCacheSDHelper
from diffusers.utils.torch_utils import randn_tensor

from pipeline_cases import BRANCHES, PROMPTS, cases
from prompts import embeddings
from tiny_adapters import load_adapters, write_adapters
from tiny_pipelines import ROOT, VARIANTS, tiny_pipeline

sys.path.insert(0, str(ROOT / "tools"))
from export import export, quiet  # noqa: E402  (tools/ is no package)
from families import SCHEDULERS, vae_in  # noqa: E402

COMMAND = "python tools/references/pipelines.py"
PROMPT_OPTIONS = ("prompt_weighting", "max_prompt_chunks")  # of this library; prompts.py is a model of them


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
        full, operands = case.is_full(step - first, len(pipe.scheduler.timesteps)), []

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


def run(pipe, case, prompts, pictures):
    """The latents after each call of the UNet, and the timesteps."""
    steps, timesteps = [], []
    negative = [case.negative_prompt] * case.batch if case.negative_prompt or not case.is_xl else None
    texts = dict(prompt=prompts, negative_prompt=negative, **case.options)
    if any(option in case.options for option in PROMPT_OPTIONS):
        texts = embeddings(pipe, prompts, negative[0], **case.options)

    def keep(_, index, timestep, tensors):
        steps.append(tensors["latents"].clone())
        timesteps.append(float(timestep))
        return {}

    latents = pipe(
        num_inference_steps=case.num_inference_steps,
        eta=case.eta,
        generator=case.generator(),
        output_type="latent",
        callback_on_step_end=keep,
        **({} if case.guidance_scale is None else dict(guidance_scale=case.guidance_scale)),
        **(dict(height=case.height * 8, width=case.width * 8) if case.masks or not pictures else {}),
        **pictures,
        **texts,
    ).images
    assert torch.equal(latents, steps[-1])
    timesteps = torch.tensor(timesteps, dtype=torch.float64)
    return torch.stack(steps), timesteps if timesteps.frac().any() else timesteps.long()


def make_scheduler(name, config):
    """What this library has under a short name."""
    plain = name.lower().removesuffix("_karras").removesuffix("_sde")
    class_name = next(class_name for class_name, short in SCHEDULERS.items() if short == plain)
    options = dict(skip_prk_steps=True) if class_name == "PNDMScheduler" else {}
    if "_sde" in name:
        options["algorithm_type"] = "sde-dpmsolver++"
    if "_karras" in name:
        options["use_karras_sigmas"] = True
    return getattr(diffusers, class_name).from_config(config, **options)


def task_pipeline(pipe, case):
    """The pipeline of these components for the case's task."""
    if not case.images and not case.image_of:
        return pipe
    name = f"StableDiffusion{'XL' if case.is_xl else ''}{'Inpaint' if case.masks else 'Img2Img'}Pipeline"
    pipe = getattr(diffusers, name).from_pipe(pipe, torch_dtype=pipe.dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def input_pictures(case):
    """Smooth noise, and a rectangle with a fringe of values about the threshold, as bytes."""
    generator = torch.Generator().manual_seed(5)
    height, width = case.height * 8, case.width * 8
    coarse = torch.rand(case.images, 3, case.height, case.width, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    mask = torch.zeros(case.masks, 1, height, width)
    for i in range(case.masks):
        mask[i, :, height // 4 :, : width // (2 + i)] = 1
    mask[:, :, height // 4, ::2], mask[:, :, height // 4, 1::2] = 127 / 255, 128 / 255
    return {
        name: (picture * 255).round().to(torch.uint8)
        for name, picture in dict(image=image, mask_image=mask).items()
        if len(picture)
    }


def record(pipe, case, config, results):
    """`config` is that of the package's scheduler; results are those of earlier cases, by name."""
    pipe = task_pipeline(pipe, case)
    pipe.scheduler = make_scheduler(case.scheduler, config)
    prompts = list(case.prompts or PROMPTS[: case.batch])
    inputs = {"image": results[case.image_of]["latents"]} if case.image_of else input_pictures(case)
    pictures = {name: value / 255 if value.dtype == torch.uint8 else value for name, value in inputs.items()}
    inputs = {"input_" + name.removesuffix("_image"): value for name, value in inputs.items()}
    if not inputs:
        shape = (case.batch, 4, case.height, case.width)
        # As the pipeline draws them.
        inputs["init_latents"] = randn_tensor(shape, generator=case.generator(), dtype=pipe.dtype)
    pipe.vae.use_tiling = pipe.vae.use_slicing = case.tiling
    with cut(pipe, case) if case.cache_interval else nullcontext() as full_calls:
        step_latents, timesteps = run(pipe, case, prompts, pictures)
    if case.cache_interval and case.variant not in ("one_layer", "three_layers"):
        with helper(pipe, case):
            if not torch.equal(run(pipe, case, prompts, pictures)[0], step_latents):
                raise RuntimeError(f"{case.name}: DeepCacheSDHelper and the model of the cut differ")
    result = case.settings | dict(
        prompts=prompts,
        **inputs,
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
        # SDXL's pipeline takes its VAE out of float16.
        vae = vae_in(pipe, torch.float32) if case.is_xl and pipe.dtype == torch.float16 else pipe.vae
        decoded = vae.decode(result["latents"].to(vae.dtype) / vae.config.scaling_factor).sample
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
                "images",
                "masks",
                "tiling",
                "image_of",
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


def save_results(results, table, folder, command):
    """Puts the cases in the folder's old ones' place, and a table of their settings beside them."""
    check_distinct(results)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.pt"):
        old.unlink()
    for name, result in results.items():
        torch.save(result, folder / f"{name}.pt")
    (folder / "recorded.json").write_text(
        json.dumps({"command": command, "versions": versions(), "cases": table}, indent=1) + "\n"
    )
    print(f"{len(results)} cases, {sum(file.stat().st_size for file in folder.glob('*.pt')) / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    pipes = {variant: tiny_pipeline(variant) for variant in VARIANTS}
    configs = {}
    for variant, pipe in pipes.items():
        with tempfile.TemporaryDirectory() as folder:
            adapters = write_adapters(variant, pipe, Path(folder))
            source = Path(folder) / "pipeline"
            pipe.save_pretrained(source)
            # From the file: one made in memory leaves settings that it wasn't given to the class that it becomes.
            configs[variant] = type(pipe.scheduler).from_pretrained(source, subfolder="scheduler").config
            export(
                source,
                args.out / "packages" / variant,
                dtype=(dtype := str(pipe.dtype).removeprefix("torch.")),
                storage="float16" if dtype == "float32" else dtype,
                force=True,
                say=lambda line, variant=variant: print(f"{variant}: {line}", flush=True),
                **adapters,
            )
            load_adapters(pipe, **adapters)  # LoRAs beside the weights, which the package has fused
    results = {}
    for case in cases():
        results[case.name] = record(pipes[case.variant], case, configs[case.variant], results)
    save_results(results, {case.name: case.settings for case in cases()}, args.out / "pipelines", COMMAND)


if __name__ == "__main__":
    main()
