"""Writes a whole diffusers pipeline folder at full size with random weights, for measuring tools/export.py.

    python bench/make_pipeline.py [sd15|sd21|sdxl] [--out FOLDER] [--dtype float16]
    python tools/export.py build/bench/sdxl_pipeline build/bench/sdxl_package --storage-dtype float16

The tokenizer is the emoji model's, with room for 77 tokens: the published one's vocabulary isn't here. In float16, sd15
takes 2.1 GB of disk and memory, sd21 2.6 GB, sdxl 6.9 GB.
"""

import argparse
from pathlib import Path

import diffusers
import torch
from transformers import CLIPTokenizer

from full_size import TEXT_ENCODERS, make_text_encoder, make_unet, make_vae

ROOT = Path(__file__).resolve().parent.parent
SCHEDULERS = {
    "sd15": diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    ),
    "sd21": diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    ),
    "sdxl": diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    ),
}


def make_pipeline(model):
    padding = dict(pad_token="!") if model == "sd21" else {}
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models/emoji/tokenizer", model_max_length=77, **padding)
    encoders = TEXT_ENCODERS[model]
    parts = dict(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(encoders[0], tokenizer, projected=False),
        unet=make_unet(model),
        vae=make_vae(model),
        scheduler=SCHEDULERS[model],
    )
    if model == "sdxl":
        second = CLIPTokenizer.from_pretrained(ROOT / "models/emoji/tokenizer", model_max_length=77, pad_token="!")
        return diffusers.StableDiffusionXLPipeline(
            **parts,
            tokenizer_2=second,
            text_encoder_2=make_text_encoder(encoders[1], second, projected=True),
            add_watermarker=False,
        )
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=TEXT_ENCODERS, default="sd15", help="default sd15")
    parser.add_argument("--out", type=Path, help="default build/bench/MODEL_pipeline")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out or ROOT / f"build/bench/{args.model}_pipeline"
    torch.manual_seed(args.seed)
    torch.set_default_dtype(getattr(torch, args.dtype))
    pipe = make_pipeline(args.model)
    pipe.save_pretrained(out)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    parameters = sum(weight.numel() for module in modules for weight in module.parameters())
    print(f"{out}: {parameters / 1e6:.1f} M parameters in {args.dtype}")


if __name__ == "__main__":
    main()
