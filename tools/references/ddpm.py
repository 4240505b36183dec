"""Records what Python's unconditional pipelines give with and without caching, and exports the models that they ran.

    python tools/references/ddpm.py [--out tests/data]

Writes packages/ddpm/, a UNet2DModel laid out as DDPM's of CIFAR-10 in small, packages/ddpm_grey/, one of greys whose
pictures aren't square, and unconditional/<case>.pt, a dictionary of tensors, strings and numbers that
`torch::pickle_load` reads; unconditional/recorded.json lists the cases, the command and the versions. Fields of a case:

- settings: variant, scheduler (a short name of this library), num_inference_steps, batch_size, seed, or seeds [B] where
  each picture has a generator of its own; eta, use_clipped_model_output; cache_interval (0: not cached),
  cache_branch_id, skip_mode, and pow and center of those that have them.
- inputs: init_latents [B, C, H, W], which are torch.randn with CPU generators of these seeds.
- results: timesteps [S] and step_latents [S, B, C, H, W] after each of S calls of the UNet, full_calls (the indices of
  those that ran the whole UNet), latents (the last ones) and image [B, C, H, W] in [0, 1].

diffusers' DDPMPipeline runs "ddpm", its DDIMPipeline the others, "generalized_ddim" with the model of that sampler in
generalized_ddim.py. DeepCache 0.1.1's helper doesn't take these UNets: cached runs are those of the model of the cut in
pipelines.py, where the first operand of a skip concatenation is replaced; DeepCache's own experiments call the same
place, `cache_branch_id` b here, branch b - 1. Non-uniform full steps are its functions', as policies.py has them.
"""

import argparse
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from generalized_ddim import GeneralizedDDIMScheduler
from pipeline_cases import BRANCHES
from pipelines import cut, export, quiet, save_results, versions
from policies import full_steps, original_functions
from tiny_pipelines import ROOT, telling

COMMAND = "python tools/references/ddpm.py"
# DDPM's own network (arXiv 2006.11239) as diffusers configures it.
DDPM_UNET = dict(
    freq_shift=1,
    flip_sin_to_cos=False,
    downsample_padding=0,
    attention_head_dim=None,
    norm_eps=1e-6,
    norm_num_groups=8,
)
VARIANTS = {
    "ddpm": dict(
        pipeline=DDPMPipeline,
        unet=dict(
            sample_size=16,
            block_out_channels=(8, 16, 16, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDPMScheduler(variance_type="fixed_large"),
    ),
    "ddpm_grey": dict(
        pipeline=DDIMPipeline,
        unet=dict(
            sample_size=(12, 20),
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(),
    ),
}


def tiny_unconditional(variant, seed=0):
    options = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = options["pipeline"](UNet2DModel(**DDPM_UNET | options["unet"]), options["scheduler"])
    telling(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass(frozen=True)
class UnconditionalCase:
    variant: str = "ddpm"
    scheduler: str = "ddim"
    num_inference_steps: int = 8
    batch_size: int = 1
    seed: int = 1
    seeds: tuple[int, ...] = ()
    eta: float = 0.0
    use_clipped_model_output: bool = False
    cache_interval: int = 0
    cache_branch_id: int = 0
    skip_mode: str = "uniform"
    pow: float = 0.0
    center: int = 0
    count = "calls"

    @property
    def name(self):
        parts = [self.variant, self.scheduler, f"{self.batch_size}pictures", f"{self.num_inference_steps}steps"]
        parts += [f"eta{self.eta:g}".replace(".", "_")] * (self.eta > 0) + ["clipped"] * self.use_clipped_model_output
        parts += [f"{len(self.seeds)}seeds"] * bool(self.seeds)
        parts += [f"interval{self.cache_interval}", f"branch{self.cache_branch_id}"] * bool(self.cache_interval)
        parts += [self.skip_mode] * (self.skip_mode != "uniform") + ["uncached"] * (not self.cache_interval)
        return "_".join(parts)

    @property
    def settings(self):
        return {key: value for key, value in asdict(self).items() if key != "seeds" or value}

    def generator(self):
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds or (self.seed,)]
        return generators if self.seeds else generators[0]

    def is_full(self, step, calls):
        if self.skip_mode == "uniform":
            return step % self.cache_interval == 0
        quad, center = original_functions()
        count = -(-calls // self.cache_interval)
        if self.skip_mode == "quad":
            return step in full_steps(quad, calls, count, self.pow)
        return step in full_steps(center, calls, count, self.center, self.pow)


def cases():
    Case = UnconditionalCase
    yield Case(scheduler="ddpm", num_inference_steps=10)
    yield Case(scheduler="ddpm", num_inference_steps=7, batch_size=2, seeds=(5, 6))
    yield Case()
    yield Case(batch_size=3)
    yield Case(eta=0.5)
    yield Case(eta=1.0, use_clipped_model_output=True)
    for branch in range(BRANCHES["ddpm"]):
        yield Case(cache_interval=3, cache_branch_id=branch)
    for interval, branch in (2, 1), (5, 3):
        yield Case(batch_size=2, eta=0.5, cache_interval=interval, cache_branch_id=branch)
        yield Case(scheduler="ddpm", num_inference_steps=10, cache_interval=interval, cache_branch_id=branch)
    quad, center = dict(skip_mode="quad", pow=1.4), dict(skip_mode="center", pow=1.4, center=5)
    for refresh in quad, center:
        yield Case(num_inference_steps=12, cache_interval=3, cache_branch_id=2, **refresh)
        yield Case(scheduler="ddpm", num_inference_steps=10, cache_interval=4, cache_branch_id=2, **refresh)

    # The original's: the quadratic spacing is its CIFAR-10's.
    for spacing in "generalized_ddim", "generalized_ddim_quad":
        yield Case(scheduler=spacing)
        yield Case(scheduler=spacing, eta=1.0)
        yield Case(scheduler=spacing, num_inference_steps=7, batch_size=2, seeds=(5, 6))
        for interval, branch in (2, 3), (3, 1), (5, 7):
            yield Case(scheduler=spacing, num_inference_steps=10, cache_interval=interval, cache_branch_id=branch)
        for refresh in quad, center:
            yield Case(scheduler=spacing, num_inference_steps=12, cache_interval=3, cache_branch_id=3, **refresh)

    grey = partial(Case, "ddpm_grey")
    yield grey()
    yield grey(scheduler="ddpm", batch_size=2)
    for branch in range(BRANCHES["ddpm_grey"]):
        yield grey(cache_interval=2, cache_branch_id=branch)
    yield grey(scheduler="generalized_ddim_quad", cache_interval=3)


def make_scheduler(name, config):
    """What this library has under a short name, from the package's settings."""
    if name == "ddpm":
        return DDPMScheduler.from_config(config)
    if name == "ddim":
        return DDIMScheduler.from_config(config)
    return GeneralizedDDIMScheduler.from_config(config, skip_type="quad" if name.endswith("_quad") else "uniform")


def run(pipe, case):
    """The latents after each call of the UNet, and the picture."""
    steps, step = [], pipe.scheduler.step

    def keep(*arguments, **options):
        result = step(*arguments, **options)
        steps.append(result.prev_sample.clone())
        return result

    options = dict(eta=case.eta, use_clipped_model_output=case.use_clipped_model_output)
    with mock.patch.object(pipe.scheduler, "step", keep):
        images = pipe(
            batch_size=case.batch_size,
            num_inference_steps=case.num_inference_steps,
            generator=case.generator(),
            output_type="np",
            **({} if case.scheduler == "ddpm" else options),
        ).images
    return torch.stack(steps), torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def record(unet, case, config):
    scheduler = make_scheduler(case.scheduler, config)
    pipe = (DDPMPipeline if case.scheduler == "ddpm" else DDIMPipeline)(unet, DDIMScheduler())
    pipe.scheduler = scheduler  # as it is; DDIMPipeline would make a DDIMScheduler of it
    pipe.set_progress_bar_config(disable=True)
    sides = unet.config.sample_size
    shape = (case.batch_size, unet.config.in_channels, *([sides, sides] if isinstance(sides, int) else sides))
    with cut(pipe, case) if case.cache_interval else nullcontext() as full_calls:
        step_latents, image = run(pipe, case)
    assert step_latents.isfinite().all(), case.name
    result = case.settings | dict(
        init_latents=randn_tensor(shape, generator=case.generator()),
        timesteps=scheduler.timesteps.clone(),
        step_latents=step_latents,
        latents=step_latents[-1].clone(),
        full_calls=list(range(len(step_latents))) if full_calls is None else full_calls,
        image=image,
        label="clipped" * case.use_clipped_model_output,
        batch=case.batch_size,
        command=COMMAND,
        versions=versions(),
    )
    if case.seeds:
        result["seeds"] = torch.tensor(case.seeds)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    pipes = {variant: tiny_unconditional(variant) for variant in VARIANTS}
    configs = {}
    for variant, pipe in pipes.items():
        with tempfile.TemporaryDirectory() as folder:
            pipe.save_pretrained(folder)
            configs[variant] = type(pipe.scheduler).from_pretrained(folder, subfolder="scheduler").config
            say = partial(print, f"{variant}:", flush=True)
            export(folder, args.out / "packages" / variant, storage="float16", force=True, say=say)
    results = {case.name: record(pipes[case.variant].unet, case, configs[case.variant]) for case in cases()}
    table = {case.name: case.settings for case in cases()}
    save_results(results, table, args.out / "unconditional", COMMAND)


if __name__ == "__main__":
    main()
