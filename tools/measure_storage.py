"""Measures what rounding a pipeline's weights for storage costs: PSNR of final pictures against the unrounded weights'.

    python tools/measure_storage.py PIPELINE_DIR "red heart" "panda" [--steps 50] [--guidance 5.0] [--seeds 0 1 2]

A pipeline of image to image or inpainting gets random pictures, at strength 1. The networks run in float32, as a
package with a smaller --storage-dtype does after loading.
"""

import argparse
import sys
from pathlib import Path

import torch

from export import DTYPES, diffusers, input_pictures, psnr, quiet  # first: it is silent where diffusers is imported
from families import UsageError, load_pipeline, modules
from tracing import round_weights


def pictures(pipe, family, args):
    """Prompts x seeds pictures [3, H, W] in [-1, 1], each from its own initial noise."""
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    prompts = [prompt for prompt in args.prompts for _ in args.seeds]
    generators = [torch.Generator().manual_seed(seed) for _ in args.prompts for seed in args.seeds]
    images = pipe(
        prompts,
        **input_pictures(family, pipe.unet.config.sample_size * pipe.vae_scale_factor, len(prompts)),
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        generator=generators,
        output_type="pt",
    ).images
    return images * 2 - 1


def measure(args):
    rows = {}
    for name, dtype in DTYPES.items():
        pipe, family = load_pipeline(args.pipeline, torch.float32, args.variant)
        for module in modules(pipe):
            round_weights(module, dtype)
            round_weights(module, torch.float32)
        rows[name] = pictures(pipe, family, args)
        values = sorted(psnr(actual, expected) for actual, expected in zip(rows[name], rows["float32"], strict=True))
        worst = (rows[name] - rows["float32"]).abs().max().item() * 127.5
        median = values[len(values) // 2]
        print(
            f"{name}: worst {values[0]:.1f} dB, median {median:.1f}, best {values[-1]:.1f} of {len(values)} pictures;",
            end=" ",
        )
        print(f"largest difference {worst:.1f} of 255", flush=True)
    if args.out:
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows.values()], dim=1)
        diffusers.utils.pt_to_pil(sheet[None])[0].save(args.out)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", metavar="PIPELINE_DIR", type=Path)
    parser.add_argument("prompts", metavar="PROMPT", nargs="+")
    parser.add_argument("--variant", help="of the weight files, such as fp16 for *.fp16.safetensors")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="also write the pictures here, a row for each dtype")
    args = parser.parse_args(arguments)
    quiet()
    try:
        measure(args)
    except UsageError as error:
        print(f"measure_storage.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
