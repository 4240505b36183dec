"""Records what Python's ControlNet pipelines give with and without caching, and exports the ControlNets that they ran.

    python tools/references/controlnet.py [--out tests/data]

Writes packages/<name>/, a package of each tiny ControlNet, and controlnet/<case>.pt, a dictionary with the fields that
pipelines.py describes, and

- controls: one or more of {package, image uint8 [1 or B, 3, h, w] (the pipeline gets it divided by 255, each value
  filling 8x8 pixels), conditioning_scale, guidance_start, guidance_end}.

controlnet/recorded.json lists the cases, the command and the versions. Cached runs are those of the model of the cut in
pipelines.py: on a cached step the first operand of a skip concatenation is replaced, and the ControlNets run whole.
DeepCache 0.1.1 knows no ControlNet pipelines, but its helper acts on the UNet alone: what it gives must be the same
(but at the deepest place, where it leaves the ControlNets' middle residual out of what is cached).
"""

import argparse
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import ControlNetModel

from pipeline_cases import BRANCHES, PROMPTS, Case
from pipelines import (
    cut,
    export,
    helper,
    input_pictures,
    make_scheduler,
    quiet,
    run,
    save_results,
    versions,
)
from tiny_pipelines import ROOT, tiny_pipeline

COMMAND = "python tools/references/controlnet.py"
# By package: the pipeline whose UNet a ControlNet was made from, its random seed, and its order of channels.
CONTROLNETS = {
    "controlnet_sd1": ("sd1", 11, "rgb"),
    "controlnet_sd1_bgr": ("sd1", 12, "bgr"),
    "controlnet_sdxl": ("sdxl", 13, "rgb"),
    "controlnet_sd2": ("sd2", 14, "rgb"),
}


def tiny_controlnet(package):
    """In diffusers' own format. Its last convolutions, which are zeros before training, are random."""
    variant, seed, channel_order = CONTROLNETS[package]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controlnet = ControlNetModel.from_unet(
            tiny_pipeline(variant).unet,
            controlnet_conditioning_channel_order=channel_order,
            conditioning_embedding_out_channels=(4, 4, 8, 8),
        )
        for layer in (controlnet.controlnet_mid_block, *controlnet.controlnet_down_blocks):
            torch.nn.init.normal_(layer.weight, std=0.7 / layer.in_channels**0.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
        embedding = controlnet.controlnet_cond_embedding
        for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
            torch.nn.init.orthogonal_(layer.weight, gain=2)  # or the image would hardly matter
            torch.nn.init.zeros_(layer.bias)
    controlnet.eval().requires_grad_(False)
    for parameter in controlnet.parameters():
        parameter.data = parameter.data.half().float()
    return controlnet


@dataclass(frozen=True)
class Control:
    package: str
    conditioning_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    images: int = 1  # one for all prompts, or one each


@dataclass(frozen=True)
class ControlCase(Case):
    controls: tuple[Control, ...] = ()

    def control_image(self, index):
        generator = torch.Generator().manual_seed(100 + index)
        shape = (self.controls[index].images, 3, self.height, self.width)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    @property
    def settings(self):
        settings = super().settings
        settings.pop("image")
        settings["controls"] = [asdict(control) for control in self.controls]
        return settings


def cases():
    single, scaled = (Control("controlnet_sd1"),), (Control("controlnet_sd1", conditioning_scale=0.5),)
    window = (Control("controlnet_sd1", guidance_start=0.25, guidance_end=0.7),)
    two = (
        Control("controlnet_sd1", conditioning_scale=0.75, guidance_end=0.5),
        Control("controlnet_sd1_bgr", conditioning_scale=0.5, guidance_start=0.125),
    )
    odd = dict(batch=3, height=13, width=17)
    for controls, label, branches in (single, "", (0, 5, 11)), (scaled, "scaled", ()), (window, "window", (0, 4)):
        yield ControlCase("sd1", controls=controls, label=label)
        for branch in branches:
            yield ControlCase("sd1", controls=controls, label=label, cache_interval=3, cache_branch_id=branch)
    for interval, branch in (0, 0), (3, 0), (2, 7):
        yield ControlCase("sd1", controls=two, label="two", cache_interval=interval, cache_branch_id=branch)
    yield ControlCase("sd1", controls=single, scheduler="PLMS", cache_interval=2, cache_branch_id=1)
    for controls, label in (single, "one_image"), ((Control("controlnet_sd1", images=3),), "own_images"):
        yield ControlCase("sd1", controls=controls, label=label, **odd)
    yield ControlCase("sd1", controls=single, label="one_image", cache_interval=2, cache_branch_id=6, **odd)
    for interval in (0, 3):
        yield ControlCase("sd1", controls=single, guidance_scale=1.0, cache_interval=interval, cache_branch_id=2)

    xl = (Control("controlnet_sdxl"),)
    yield ControlCase("sdxl", controls=xl)
    for branch in (0, 4, 8):
        yield ControlCase("sdxl", controls=xl, cache_interval=3, cache_branch_id=branch)
    window = (Control("controlnet_sdxl", conditioning_scale=0.5, guidance_end=0.6),)
    for interval in (0, 2):
        yield ControlCase("sdxl", controls=window, label="window", cache_interval=interval, cache_branch_id=1)
    for interval in (0, 2):
        yield ControlCase("sdxl", controls=xl, cache_interval=interval, cache_branch_id=3, **odd)
    yield ControlCase("sdxl", controls=xl, guidance_scale=1.0)

    # Of a picture: fewer steps, whose shares the window is of; an inpainting UNet with nine channels.
    part = dict(images=1, options=dict(strength=0.6), label="strength")
    window = (Control("controlnet_sd1", conditioning_scale=0.75, guidance_end=0.5),)
    for interval in (0, 2):
        yield ControlCase("sd1", controls=window, cache_interval=interval, cache_branch_id=1, **part)
        yield ControlCase("sdxl", controls=xl, cache_interval=interval, cache_branch_id=1, **part)
        yield ControlCase("sd1_inpaint", controls=single, images=1, masks=1, cache_interval=interval)
    yield ControlCase("sd1", controls=single, images=1, masks=1)
    yield ControlCase("sdxl", controls=xl, images=1, masks=1)
    window = (Control("controlnet_sdxl", guidance_end=0.4),)  # of all steps, not of those until denoising_end
    yield ControlCase("sdxl", controls=window, options=dict(denoising_end=0.7), label="denoising_end")

    # What is combined: several on SDXL, inpainting UNets of it, schedulers that repeat timesteps, v-prediction.
    two = (
        Control("controlnet_sdxl", conditioning_scale=0.75, guidance_end=0.5),
        Control("controlnet_sdxl", conditioning_scale=0.5, guidance_start=0.125),
    )
    window = (Control("controlnet_sd1", conditioning_scale=1.0, guidance_start=0.25, guidance_end=0.7),)
    sd2 = (Control("controlnet_sd2", conditioning_scale=1.0),)
    masked = dict(images=1, masks=1, options=dict(strength=0.75), label="strength")
    for interval in (0, 2):
        yield ControlCase("sdxl", controls=two, label="two", cache_interval=interval, cache_branch_id=5)
        yield ControlCase("sdxl_inpaint", controls=xl, cache_interval=interval, cache_branch_id=2, **masked)
        yield ControlCase(
            "sd1", controls=window, label="window", scheduler="heun", cache_interval=interval, cache_branch_id=1
        )
        yield ControlCase("sd2", controls=sd2, cache_interval=interval, cache_branch_id=4)
    yield ControlCase("sdxl", controls=xl, cache_interval=2, cache_branch_id=2, **masked)
    yield ControlCase("sdxl", controls=xl, scheduler="euler", cache_interval=3, cache_branch_id=1)
    yield ControlCase("sd1", controls=single, scheduler="unipc", cache_interval=2, cache_branch_id=0)


def controlnet_pipeline(case, controlnets):
    task = "Inpaint" * bool(case.masks) or "Img2Img" * bool(case.images)
    cls = getattr(diffusers, f"StableDiffusion{'XL' if case.is_xl else ''}ControlNet{task}Pipeline")
    options = dict(add_watermarker=False) if case.is_xl else dict(safety_checker=None)
    components = tiny_pipeline(case.variant).components
    pipe = cls(
        **{name: part for name, part in components.items() if name != "safety_checker"},
        controlnet=controlnets[0] if len(controlnets) == 1 else controlnets,
        **options,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def control_arguments(case):
    arguments = {
        "control_image" if case.images else "image": [
            (case.control_image(index).float() / 255).repeat_interleave(8, 2).repeat_interleave(8, 3)
            for index in range(len(case.controls))
        ],
        "controlnet_conditioning_scale": [control.conditioning_scale for control in case.controls],
        "control_guidance_start": [control.guidance_start for control in case.controls],
        "control_guidance_end": [control.guidance_end for control in case.controls],
    }
    return arguments if len(case.controls) > 1 else {name: values[0] for name, values in arguments.items()}


def record(case, controlnets):
    pipe = controlnet_pipeline(case, [controlnets[control.package] for control in case.controls])
    with tempfile.TemporaryDirectory() as folder:
        # From a file, as in pipelines.py: one made in memory leaves settings to the class that it becomes.
        pipe.scheduler.save_pretrained(folder)
        pipe.scheduler = make_scheduler(case.scheduler, type(pipe.scheduler).from_pretrained(folder).config)
    prompts, inputs = PROMPTS[: case.batch], input_pictures(case)
    arguments = {name: picture / 255 for name, picture in inputs.items()} | control_arguments(case)
    with cut(pipe, case) if case.cache_interval else nullcontext() as full_calls:
        step_latents, timesteps = run(pipe, case, prompts, arguments)
    # At the deepest place the helper keeps the middle block's output as it was before the residual, and adds a new one.
    if case.cache_interval and case.cache_branch_id < BRANCHES[case.variant] - 1:
        with helper(pipe, case):
            if not torch.equal(run(pipe, case, prompts, arguments)[0], step_latents):
                raise RuntimeError(f"{case.name}: DeepCacheSDHelper and the model of the cut differ")
    controls = [asdict(control) | dict(image=case.control_image(index)) for index, control in enumerate(case.controls)]
    return case.settings | dict(
        controls=controls,
        prompts=prompts,
        **{"input_" + name.removesuffix("_image"): picture for name, picture in inputs.items()},
        timesteps=timesteps,
        step_latents=step_latents,
        latents=step_latents[-1].clone(),
        full_calls=list(range(len(timesteps))) if full_calls is None else full_calls,
        command=COMMAND,
        versions=versions(),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    controlnets = {package: tiny_controlnet(package) for package in CONTROLNETS}
    for package, controlnet in controlnets.items():
        with tempfile.TemporaryDirectory() as folder:
            controlnet.save_pretrained(folder)
            say = partial(print, f"{package}:", flush=True)
            export(folder, args.out / "packages" / package, storage="float16", force=True, say=say)
    results = {case.name: record(case, controlnets) for case in cases()}
    save_results(results, {case.name: case.settings for case in cases()}, args.out / "controlnet", COMMAND)


if __name__ == "__main__":
    main()
