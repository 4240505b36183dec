"""Records what Python's StableVideoDiffusionPipeline gives with and without DeepCache, and exports the one that it ran.

    python tools/references/svd.py [--out tests/data]

Writes packages/svd/, a model package of the tiny pipeline, and svd/<case>.pt, a dictionary of tensors,
strings, numbers and lists that `torch::pickle_load` reads; svd/recorded.json lists the cases, the command and
the versions. Fields of a case:

- settings: height and width (pixels), num_frames, num_inference_steps, scheduler, cache_interval (0: not cached) and
  cache_branch_id; seed, or seeds [B] where each video has a generator of its own; num_videos_per_prompt, options
  (further arguments of the pipeline).
- inputs: input_image, uint8 [n, 3, H, W], which Python gets as PIL images.
- results: timesteps [S], step_latents [S, B, F, 4, h, w] after each call of the UNet, full_calls (the indices of those
  that ran the whole UNet), latents (the last ones), and in some cases frames [B, F, 3, H, W] in [0, 1], float32.

Cached runs are those of the model of the cut in pipelines.py, and it is checked that DeepCacheSDHelper gives the same,
and so does the UNet of DeepCache's own svd pipeline, whose `cache_branch` b is branch b + 1 here: it has none for
branch 0, and doesn't take sizes that the UNet's strides don't divide.

svd/preprocessing.pt: images resized as diffusers' pipeline resizes them for its autoencoder and its encoder.
"""

import argparse
import importlib.metadata
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import diffusers
import numpy
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from PIL import Image

from pipelines import cut, export, helper, quiet, save_results, versions
from tiny_pipelines import ROOT
from tiny_video import tiny_video_pipeline

COMMAND = "python tools/references/svd.py"


@dataclass(frozen=True)
class Case:
    height: int = 16
    width: int = 16
    image_height: int = 16
    image_width: int = 16
    num_frames: int = 3
    num_inference_steps: int = 6
    cache_interval: int = 0
    cache_branch_id: int = 0
    seed: int = 1
    seeds: tuple[int, ...] = ()
    images: int = 1
    num_videos_per_prompt: int = 1
    frames: bool = False  # whether the decoded frames are recorded
    options: dict = field(default_factory=dict)  # further arguments of the pipeline
    label: str = ""
    variant = "svd"
    count = "calls"
    scheduler = "euler"

    @property
    def name(self):
        videos = self.images * self.num_videos_per_prompt
        parts = [
            self.variant,
            f"{videos}x{self.num_frames}x{self.height}x{self.width}",
            f"{self.num_inference_steps}steps",
        ]
        parts += [self.label] * bool(self.label)
        cached = [f"interval{self.cache_interval}", f"branch{self.cache_branch_id}"]
        return "_".join(parts + (cached if self.cache_interval else ["uncached"]))

    @property
    def settings(self):
        names = (
            "variant",
            "height",
            "width",
            "num_frames",
            "num_inference_steps",
            "scheduler",
            "cache_interval",
            "cache_branch_id",
            "seed",
            "num_videos_per_prompt",
            "options",
            "label",
            "images",
        )
        return {name: getattr(self, name) for name in names} | (dict(seeds=list(self.seeds)) if self.seeds else {})

    def generator(self):
        if self.seeds:
            return [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return torch.Generator().manual_seed(self.seed)


def cases():
    yield Case(frames=True)
    for branch in range(6):
        yield Case(cache_interval=3, cache_branch_id=branch)
    for interval in 1, 2, 5:
        yield Case(cache_interval=interval, cache_branch_id=1, frames=interval == 2)
    # Frame counts and sizes that nothing divides, images that are stretched and shrunk; decoding in chunks of 2, 2, 1.
    odd = dict(height=26, width=34, num_frames=5, num_inference_steps=4, image_height=40, image_width=30)
    for interval, branch in (0, 0), (2, 0), (2, 4):
        frames = dict(frames=True, options=dict(decode_chunk_size=2)) if not interval else {}
        yield Case(cache_interval=interval, cache_branch_id=branch, label="odd", **odd, **frames)
    short = dict(num_inference_steps=4)
    # At its defaults diffusers fails on one frame, whose scale, 1, is no guidance to its loop, though it prepared some.
    yield Case(num_frames=1, label="one_frame", options=dict(min_guidance_scale=2.0), **short)
    conditions = dict(
        fps=24, motion_bucket_id=40, noise_aug_strength=0.3, min_guidance_scale=0.5, max_guidance_scale=6.0
    )
    for interval in 0, 3:
        yield Case(options=conditions, label="conditions", cache_interval=interval, cache_branch_id=2, **short)
        yield Case(options=dict(max_guidance_scale=1.0), label="unguided", cache_interval=interval, **short)
    yield Case(options=dict(min_guidance_scale=4.0), label="falling_guidance", **short)
    # Chunks of 4 frames go from the first video into the second.
    for seeds, label in ((), "videos"), ((4, 5), "videos_2seeds"):
        options = dict(decode_chunk_size=4)
        yield Case(num_videos_per_prompt=2, seeds=seeds, label=label, frames=not seeds, options=options, **short)
    for seeds, label in ((), "images"), ((4, 5), "images_2seeds"):
        yield Case(images=2, seeds=seeds, label=label, image_height=17, image_width=23, **short)
    yield Case(images=2, label="images", image_height=17, image_width=23, cache_interval=2, cache_branch_id=3, **short)


def pictures(case):
    """Smooth noise, as bytes."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(case.images, 3, 6, 6, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (case.image_height, case.image_width), mode="bilinear")
    return (image * 255).round().to(torch.uint8)


def as_pil(images):
    return [Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()) for image in images]


@contextmanager
def original(pipe, case):
    """Runs the pipeline on the UNet of DeepCache's own svd pipeline, with the loop's cache as that pipeline keeps it.

    DeepCache 0.1.1 imports modules by the names that they had in diffusers 0.24.
    """
    for name in "dual_transformer_2d", "transformer_2d", "transformer_temporal":
        sys.modules[f"diffusers.models.{name}"] = getattr(diffusers.models.transformers, name)
    from DeepCache.svd.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel.from_config(pipe.unet.config)
    unet.load_state_dict(pipe.unet.state_dict())
    unet.eval().requires_grad_(False)
    calls, features = 0, None

    def forward(*args, **kwargs):
        nonlocal calls, features
        if calls % case.cache_interval == 0:
            features = None
        calls += 1
        kwargs |= dict(cache_features=features, cache_branch=case.cache_branch_id - 1)
        noise, features = unet(*args, **kwargs)
        return (noise,)

    with mock.patch.object(pipe.unet, "forward", forward):
        yield


def run(pipe, case):
    """The latents after each call of the UNet, and the timesteps."""
    steps, timesteps = [], []

    def keep(_, index, timestep, tensors):
        steps.append(tensors["latents"].clone())
        timesteps.append(float(timestep))
        return {}

    images = as_pil(pictures(case))
    # diffusers wants sizes that 8 divides, whatever the autoencoder's factor is.
    with mock.patch.object(pipe, "check_inputs"):
        latents = pipe(
            images if case.images > 1 else images[0],
            height=case.height,
            width=case.width,
            num_frames=case.num_frames,
            num_inference_steps=case.num_inference_steps,
            num_videos_per_prompt=case.num_videos_per_prompt,
            generator=case.generator(),
            output_type="latent",
            callback_on_step_end=keep,
            **case.options,
        ).frames
    assert torch.equal(latents, steps[-1])
    return torch.stack(steps), torch.tensor(timesteps, dtype=torch.float64)


def decode(pipe, case, latents):
    decoded = pipe.decode_latents(latents, case.num_frames, case.options.get("decode_chunk_size", case.num_frames))
    return pipe.video_processor.postprocess_video(decoded, output_type="pt").contiguous()


def record(pipe, case):
    with cut(pipe, case) if case.cache_interval else nullcontext() as full_calls:
        step_latents, timesteps = run(pipe, case)
    others = [helper] if case.cache_interval else []
    if case.cache_interval and case.cache_branch_id > 0 and case.height % 4 == 0:
        others.append(original)
    for other in others:
        with other(pipe, case):
            if not torch.equal(run(pipe, case)[0], step_latents):
                raise RuntimeError(f"{case.name}: {other.__name__} and the model of the cut differ")
    result = case.settings | dict(
        input_image=pictures(case),
        timesteps=timesteps,
        step_latents=step_latents,
        latents=step_latents[-1].clone(),
        full_calls=list(range(len(timesteps))) if full_calls is None else full_calls,
        command=COMMAND,
        versions=versions(),
    )
    if case.seeds:
        result["seeds"] = torch.tensor(case.seeds)
    if case.frames:
        result["frames"] = decode(pipe, case, result["latents"])
    return result


def preprocessing():
    """By target size, what Pillow and diffusers make of one image."""
    generator = torch.Generator().manual_seed(6)
    image = torch.randint(0, 256, (3, 37, 23), dtype=torch.uint8, generator=generator)
    large = torch.nn.functional.interpolate(image[None].float(), (100, 157), mode="bilinear").round().to(torch.uint8)
    picture = as_pil([image])[0]
    # Pillow 13 begins with the height where it loses more than twice as many pixels as the width: (24, 48), (14, 12).
    sizes = (37, 23), (24, 48), (37, 8), (90, 23), (1, 1), (111, 64), (15, 12), (14, 12)
    resized = [torch.tensor(numpy.asarray(picture.resize((w, h), Image.LANCZOS))) for h, w in sizes]
    return {
        "image": image,
        "sizes": torch.tensor(sizes),
        "lanczos": [pixels.permute(2, 0, 1).contiguous() for pixels in resized],
        "images": [image, large[0]],
        "antialiased": [
            _resize_with_antialiasing(each[None].float() / 255 * 2 - 1, (32, 32)) for each in (image, large[0])
        ],
        "command": COMMAND,
        "versions": versions() | {"pillow": importlib.metadata.version("pillow")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    pipe = tiny_video_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        say = partial(print, "svd:", flush=True)
        export(folder, args.out / "packages/svd", storage="float16", force=True, say=say)
    results = {case.name: record(pipe, case) for case in cases()}
    folder = args.out / "svd"
    save_results(results, {case.name: case.settings for case in cases()}, folder, COMMAND)
    torch.save(preprocessing(), folder / "preprocessing.pt")


if __name__ == "__main__":
    main()
