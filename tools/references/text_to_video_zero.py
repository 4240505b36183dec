"""Records what Python's Text2Video-Zero gives with and without DeepCache, and exports the pipeline that it ran.

    python tools/references/text_to_video_zero.py [--out tests/data]

Writes packages/text_to_video_zero/, made from the tiny Stable Diffusion "lora" (as it is without one), and
text_to_video_zero/<case>.pt, a dictionary with the fields that pipelines.py describes, but

- settings: no batch, and video_length, t0, t1, motion_field_strength [2], smooth_bg_strength; frame_ids [F] where they
  aren't 0, 1, 2, ...
- inputs: input_mask, uint8 [F, 1, 2 h, 2 w], in runs with background smoothing (divided by 255, each value filling 4x4
  pixels).
- results: step_latents is a list, of [1, 4, h, w] while the first frame is alone, and [F, 4, h, w] then.

text_to_video_zero/recorded.json lists the cases, the command and the versions.

Uncached runs are diffusers' TextToVideoZeroPipeline. It fails without guidance, where it is given no unconditional
embeddings instead of None, and its attention processor a batch of one. Cached runs are the model of the cut in
pipelines.py, which begins anew in each of the pipeline's three loops: so does DeepCache's own pipeline
(sd/pipeline_text_to_video_zero.py), whose cache is a variable of the loop, and whose refresh steps are counted in it.
That pipeline doesn't import with diffusers 0.36; with what moved put back in its place it does, and must give the same
for the branches that it can run on this UNet, as DeepCacheSDHelper must, enabled in each loop. (Enabled for all of them
it would look up features of one frame for several.) Background smoothing is a model of the paper's section 3.3.3 in the
details of the original's code base, whose own code for it is broken: it uses a tensor that it has deleted.
"""

import argparse
import importlib
import sys
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from unittest import mock

import diffusers
import torch
from diffusers.models import attention_processor, embeddings
from diffusers.pipelines import pipeline_utils
from diffusers.pipelines.text_to_video_synthesis import pipeline_text_to_video_zero as original

from pipeline_cases import PROMPTS, Case
from pipelines import cut, export, helper, make_scheduler, quiet, save_results, versions
from tiny_pipelines import ROOT, tiny_pipeline

COMMAND = "python tools/references/text_to_video_zero.py"
PACKAGE, SOURCE = "text_to_video_zero", "lora"


@dataclass(frozen=True)
class VideoCase(Case):
    variant: str = SOURCE
    num_inference_steps: int = 9
    video_length: int = 3
    t0: int = 4
    t1: int = 6
    motion_field_strength: tuple[float, float] = (60.0, 44.0)
    frame_ids: tuple[int, ...] = ()
    smooth_bg_strength: float = 0.4
    mask: bool = False

    @property
    def name(self):
        return super().name.removeprefix(f"{SOURCE}_").replace(f"_{self.batch}x", f"_{self.video_length}x")

    @property
    def settings(self):
        optional = "prompts", "seeds", "eta", "options", "images", "masks", "tiling", "image_of", "label", "frame_ids"
        dropped = "image", "batch", "variant", "mask"
        return {k: v for k, v in asdict(self).items() if k not in dropped and (v or k not in optional)}

    @property
    def ids(self):
        return list(self.frame_ids or range(self.video_length))

    def foreground(self):
        """Nothing, everything and something in between, in other places in each frame."""
        generator = torch.Generator().manual_seed(3)
        coarse = torch.rand(self.video_length, 1, (self.height + 3) // 4, (self.width + 3) // 4, generator=generator)
        fine = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., : 2 * self.height, : 2 * self.width]
        return (fine > 0.7).to(torch.uint8) * 255 + (fine < 0.1).to(torch.uint8) * 100


def cases():
    yield VideoCase(video_length=2, image=True, label="two_frames")
    for scheduler in "DDIM", "PLMS":
        yield VideoCase(scheduler=scheduler)
        for branch in range(6):
            yield VideoCase(scheduler=scheduler, cache_interval=3, cache_branch_id=branch)
        yield VideoCase(scheduler=scheduler, cache_interval=2, cache_branch_id=1)
    for scheduler in "ddpm", "lcm", "unipc", "dpm++_2m_karras", "dpm++_2m_sde":
        for interval in (0, 2):
            yield VideoCase(scheduler=scheduler, cache_interval=interval, cache_branch_id=interval // 2)
    for label, frames in ("one_frame", 1), ("five_frames", 5):
        for interval in (0, 5):
            yield VideoCase(video_length=frames, cache_interval=interval, label=label)
    for label, settings in {
        "one_step_to_t1": dict(t1=7),
        "all_from_the_start": dict(t1=8, t0=0),
        "plms_one_step_to_t1": dict(scheduler="PLMS", t1=8, t0=7),
        "plms_all_from_the_start": dict(scheduler="PLMS", t1=9, t0=3),
        "chunk": dict(frame_ids=(0, 5, 6)),
        "backwards": dict(frame_ids=(2, -1, -2), motion_field_strength=(-20.5, 0.0)),
        "still": dict(motion_field_strength=(0.0, 0.0)),
        "eta": dict(eta=0.5),
        "negative": dict(negative_prompt="blue!"),
        "odd": dict(height=13, width=17, motion_field_strength=(12.0, 13.5)),
        "smooth": dict(mask=True),
        "smooth_more": dict(mask=True, smooth_bg_strength=0.0, height=13, width=17, video_length=2),
    }.items():
        for interval in (0, 2):
            yield VideoCase(label=label, cache_interval=interval, cache_branch_id=interval, **settings)
    for label, frames in ("two_frames", 2), ("", 3), ("five_frames", 5):
        yield VideoCase(video_length=frames, guidance_scale=1.0, label=label)
    for branch in (0, 4):
        yield VideoCase(guidance_scale=1.0, cache_interval=3, cache_branch_id=branch)


# ---- Python's pipelines


def video_pipeline(cls=diffusers.TextToVideoZeroPipeline, **others):
    parts = {name: part for name, part in tiny_pipeline(SOURCE).components.items() if name not in ("image_encoder",)}
    pipe = cls(**parts | others, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def deepcache_pipeline():
    """DeepCache's own, with what diffusers has moved or renamed since put where it looks for it."""
    transformers = {
        f"diffusers.models.{name}": importlib.import_module(f"diffusers.models.transformers.{name}")
        for name in ("dual_transformer_2d", "transformer_2d")
    }
    set_processor = attention_processor.Attention.set_processor
    attention_processor.Attention.set_processor = lambda attn, processor, _remove_lora=False: set_processor(
        attn, processor
    )
    embeddings.PositionNet = embeddings.GLIGENTextBoundingboxProjection
    sys.modules.update(transformers | {"DeepCache.sd.pipeline_utils": pipeline_utils})
    unets = importlib.import_module("DeepCache.sd.unet_2d_condition")
    pipelines = importlib.import_module("DeepCache.sd.pipeline_text_to_video_zero")
    unet = tiny_pipeline(SOURCE).unet
    cached = unets.UNet2DConditionModel.from_config(unet.config)
    cached.load_state_dict(unet.state_dict())
    return video_pipeline(pipelines.TextToVideoZeroPipeline, unet=cached.eval().requires_grad_(False))


@contextmanager
def unguided(pipe):
    """Without the unconditional half, that is with a batch of one video."""
    processor, encode_prompt = original.CrossFrameAttnProcessor2_0, pipe.encode_prompt

    def encode(*args, **kwargs):
        states, _ = encode_prompt(*args, **kwargs)
        return states, states[:0]

    with (
        mock.patch.object(original, "CrossFrameAttnProcessor2_0", lambda batch_size: processor(batch_size=1)),
        mock.patch.object(pipe, "encode_prompt", encode),
    ):
        yield


@contextmanager
def in_each_loop(pipe, caching, case):
    """Enters `caching` anew in each of the pipeline's loops, and smooths the background before the last one.

    Yields the list of full calls' indices.
    """
    loop, full_calls, calls, loops = pipe.backward_loop, [], 0, 0

    def backward_loop(timesteps, latents, **kwargs):
        nonlocal calls, loops
        loops += 1
        if loops == 3 and case.mask:
            latents = smooth(latents, case)
        with caching() if len(timesteps) else nullcontext() as full:
            result = loop(timesteps=timesteps, latents=latents, **kwargs)
        full_calls.extend(calls + call for call in (range(len(timesteps)) if full is None else full))
        calls += len(timesteps)
        return result

    with mock.patch.object(pipe, "backward_loop", backward_loop):
        yield full_calls


def smooth(latents, case):
    """Equation 9 of the paper with the masks of the original's code."""
    mask = (case.foreground() / 255).repeat_interleave(4, 2).repeat_interleave(4, 3)
    mask = torch.nn.functional.interpolate(mask, latents.shape[2:], mode="nearest")
    padded = torch.nn.functional.pad(mask, (2, 2, 2, 2))
    rows, columns = latents.shape[2:]
    mask = torch.stack([padded[..., i : i + rows, j : j + columns] for i in range(5) for j in range(5)]).amax(0)

    def follow(first):
        frames = first[:1].repeat(case.video_length - 1, 1, 1, 1)
        moved = original.create_motion_field_and_warp_latents(*case.motion_field_strength, case.ids[1:], frames)
        return torch.cat([first[:1], moved])

    background = (1 - mask) * (1 - follow(mask))
    own = case.smooth_bg_strength
    moved = follow(latents * (1 - mask))
    return (1 - background) * latents + background * (own * latents + (1 - own) * moved)


# ---- Recording


def run(pipe, case, **options):
    """The latents after each call of the UNet, and the timesteps."""
    steps, timesteps, scheduler = [], [], type(pipe.scheduler)
    scheduler_step = scheduler.step

    def step(self, noise, timestep, *args, **kwargs):  # the pipeline's callback isn't told of the first step of PLMS
        result = scheduler_step(self, noise, timestep, *args, **kwargs)
        steps.append(result.prev_sample.clone())
        timesteps.append(int(timestep))
        return result

    # With its arguments, among which the pipeline looks for eta and generator.
    with mock.patch.object(scheduler, "step", wraps(scheduler_step)(step)):
        latents = generate(pipe, case, **options)
    assert torch.equal(latents, steps[-1])
    return steps, torch.tensor(timesteps)


def generate(pipe, case, **options):
    return pipe(
        PROMPTS[0],
        video_length=case.video_length,
        height=case.height * 8,
        width=case.width * 8,
        num_inference_steps=case.num_inference_steps,
        guidance_scale=case.guidance_scale,
        negative_prompt=case.negative_prompt or None,
        eta=case.eta,
        generator=case.generator(),
        motion_field_strength_x=case.motion_field_strength[0],
        motion_field_strength_y=case.motion_field_strength[1],
        t0=case.t0,
        t1=case.t1,
        frame_ids=list(case.frame_ids) or None,
        output_type="latent",
        **options,
    ).images


def check_same(case, what, steps, expected):
    if not all(torch.equal(actual, step) for actual, step in zip(steps, expected, strict=True)):
        raise RuntimeError(f"{case.name}: {what} and the model of the cut differ")


def record(pipe, deepcache, case, config):
    """`config` is that of the package's scheduler."""
    for each in pipe, deepcache:
        each.scheduler = make_scheduler(case.scheduler, config)
    caching = partial(cut, pipe, case) if case.cache_interval else nullcontext
    with ExitStack() as stack:
        if case.guidance_scale == 1:
            stack.enter_context(unguided(pipe))
        with in_each_loop(pipe, caching, case) as full_calls:
            steps, timesteps = run(pipe, case)
        if case.cache_interval:
            with in_each_loop(pipe, partial(helper, pipe, case), case):
                check_same(case, "DeepCacheSDHelper", run(pipe, case)[0], steps)
    # DeepCache's pipeline can't do without guidance either. Its layer 0, block 0 is branch 1, and none branch 0; and it
    # keeps no features of blocks without attention, which the deeper one is.
    if case.guidance_scale > 1 and (not case.cache_interval or case.cache_branch_id in (1, 2)):
        options = dict(cache_interval=1)
        if case.cache_interval:
            block = case.cache_branch_id - 1
            options = dict(cache_interval=case.cache_interval, cache_layer_id=0, cache_block_id=block)
        with in_each_loop(deepcache, nullcontext, case):
            check_same(case, "DeepCache's pipeline", run(deepcache, case, **options)[0], steps)
    result = case.settings | dict(
        package=PACKAGE,
        prompts=PROMPTS[:1],
        motion_field_strength=torch.tensor(case.motion_field_strength, dtype=torch.float64),
        timesteps=timesteps,
        step_latents=steps,
        latents=steps[-1].clone(),
        full_calls=full_calls,
        command=COMMAND,
        versions=versions(),
    )
    if case.frame_ids:
        result["frame_ids"] = torch.tensor(case.frame_ids)
    if case.mask:
        result["input_mask"] = case.foreground()
    if case.image:
        result["image"] = torch.from_numpy(pipe.decode_latents(steps[-1])).permute(0, 3, 1, 2).contiguous()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    with tempfile.TemporaryDirectory() as folder:
        tiny_pipeline(SOURCE).save_pretrained(folder)
        # From the file: one made in memory leaves settings that it wasn't given to the class that it becomes.
        config = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler").config
        say = partial(print, f"{PACKAGE}:", flush=True)
        package = args.out / "packages" / PACKAGE
        export(folder, package, storage="float16", force=True, say=say, other_family="text-to-video-zero")
    pipe, deepcache = video_pipeline(), deepcache_pipeline()
    results = {case.name: record(pipe, deepcache, case, config) for case in cases()}
    save_results(results, {case.name: case.settings for case in cases()}, args.out / "text_to_video_zero", COMMAND)


if __name__ == "__main__":
    main()
