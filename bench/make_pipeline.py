"""Writes a whole pipeline at full size with random weights, for measuring tools/export.py.

    python bench/make_pipeline.py [sd15|sd15_narrow|sd21|sdxl|svd_xt|ldm4g|ddpm_cifar10|ddpm_lsun]
        [--out FOLDER] [--dtype float16]
    python tools/export.py build/bench/sdxl_pipeline build/bench/sdxl_package --storage-dtype float16

A diffusers folder; of ldm4g a checkpoint and its YAML file in one, as CompVis has them. The tokenizer is the emoji
model's, with room for 77 tokens: the published one's vocabulary isn't here. In float16, sd15 takes 2.1 GB of disk and
memory, sd21 2.6 GB, sdxl 6.9 GB, svd_xt 4.5 GB.
"""

import argparse
import sys
from pathlib import Path

import diffusers
import torch
from transformers import CLIPImageProcessor, CLIPTokenizer

from full_size import LDM4G, TEXT_ENCODERS, make_image_encoder, make_text_encoder, make_unet, make_vae, make_video_vae

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools/references"))
from class_conditional import write_checkpoint  # noqa: E402
from compvis import LatentDiffusion  # noqa: E402
from tiny_video import scheduler as video_scheduler  # noqa: E402

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


def stable_diffusion(model):
    padding = dict(pad_token="!") if model == "sd21" else {}
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models/emoji/tokenizer", model_max_length=77, **padding)
    kind = model.removesuffix("_narrow")
    encoders = TEXT_ENCODERS[kind]
    parts = dict(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(encoders[0], tokenizer, projected=False),
        unet=make_unet(model),
        vae=make_vae(kind),
        scheduler=SCHEDULERS[kind],
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


def stable_video(model):
    return diffusers.StableVideoDiffusionPipeline(
        vae=make_video_vae(),
        image_encoder=make_image_encoder(),
        unet=make_unet(model),
        scheduler=video_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )


def unconditional(model):
    return diffusers.DDPMPipeline(make_unet(model), diffusers.DDPMScheduler())


PIPELINES = {
    "sd15": stable_diffusion,
    "sd15_narrow": stable_diffusion,
    "sd21": stable_diffusion,
    "sdxl": stable_diffusion,
    "svd_xt": stable_video,
    "ddpm_cifar10": unconditional,
    "ddpm_lsun": unconditional,
}


def write(model, out):
    """Returns the networks."""
    if model == "ldm4g":
        networks = LatentDiffusion(LDM4G)
        write_checkpoint(networks, out, LDM4G)
        return [networks]
    pipe = PIPELINES[model](model)
    pipe.save_pretrained(out)
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=[*PIPELINES, "ldm4g"], default="sd15", help="default sd15")
    parser.add_argument("--out", type=Path, help="default build/bench/MODEL_pipeline")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    out = args.out or ROOT / f"build/bench/{args.model}_pipeline"
    torch.manual_seed(args.seed)
    torch.set_default_dtype(getattr(torch, args.dtype))
    parameters = sum(weight.numel() for network in write(args.model, out) for weight in network.parameters())
    print(f"{out}: {parameters / 1e6:.1f} M parameters in {args.dtype}")


if __name__ == "__main__":
    main()
