"""A picture by Python's diffusers, uncached: first_picture.py PIPELINE_DIR OUT.png [--steps 20] [--threads 2]"""

import argparse

import torch
from diffusers import StableDiffusionPipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipe = StableDiffusionPipeline.from_pretrained(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(42)
    pipe("red heart", num_inference_steps=args.steps, guidance_scale=7.5, generator=generator).images[0].save(args.out)


if __name__ == "__main__":
    main()
