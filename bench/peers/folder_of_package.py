"""Writes a model package of a Stable Diffusion as a diffusers folder again: folder_of_package.py PACKAGE OUT

The package's traced networks keep the names of their weights.
"""

import shutil
import sys
from pathlib import Path

import diffusers
import torch
import transformers


def weights(*files):
    return {name: value for file in files for name, value in torch.jit.load(file).state_dict().items()}


def main():
    package, out = map(Path, sys.argv[1:])
    unet = diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(package / "unet"))
    unet.load_state_dict(weights(package / "unet/model.pt"))
    vae = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(package / "vae"))
    vae.load_state_dict(weights(package / "vae/encoder.pt", package / "vae/decoder.pt"))
    text_encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(package / "text_encoder"))
    states = weights(package / "text_encoder/model.pt")
    text_encoder.load_state_dict({name: states[name] for name in text_encoder.state_dict()})
    half_made = out.with_name(out.name + ".part")
    shutil.rmtree(half_made, ignore_errors=True)
    diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(package / "tokenizer"),
        scheduler=diffusers.DDIMScheduler.from_pretrained(package / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(half_made)
    half_made.rename(out)


if __name__ == "__main__":
    main()
