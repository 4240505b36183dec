"""Writes a published UNet at its full size with random weights, traced as tools/export.py traces.

    python bench/make_unet.py [sd15|sd15_narrow|sd21|sdxl|sdxl_refiner|svd|svd_xt|ldm4g|ddpm_cifar10|ddpm_lsun]
        [--dtype float16] [--out FOLDER] [--no-weights] [--compile 32x32]

For unet_bench and `deepcache inspect`. The folder gets unet.pt (for sd15 3.4 GB in float32) and config.json. What a
step costs doesn't depend on the weights' values, nor do its multiply-accumulates depend on the dtype: so for `inspect`
alone --no-weights does, a file of a megabyte or two whose weights are all zero, each tensor one number seen many times.
With --compile there is unet.pt2 too, for backend_bench: compiled for latents of this size, batch 2 and prompts of 77
tokens, at branch 0. For svd and svd_xt there is decoder.pt too, the VAE's decoder, for `deepcache inspect --decoder`.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from aoti import compile_unet  # noqa: E402
from export import DTYPES, height_and_width, quiet  # noqa: E402
from families import Size, denoiser_inputs, unet_forward, unet_xl_forward, view_of  # noqa: E402
from full_size import UNETS, make_unet, make_video_vae  # noqa: E402
from stable_video import VideoDecoder  # noqa: E402
from stable_video import unet_forward as video_unet_forward  # noqa: E402
from tracing import strip  # noqa: E402
from unconditional import unconditional_forward  # noqa: E402


def video_inputs(config):
    """Two videos of three frames."""
    yield torch.randn(2, 3, config.in_channels, 17, 9)
    yield torch.tensor(1.6, dtype=torch.float32)
    yield torch.randn(2, 1, config.cross_attention_dim)
    yield torch.rand(2, config.projection_class_embeddings_input_dim // config.addition_time_embed_dim)


def inputs(config):
    """Of a conditional UNet at a size that the strides (8 in all) don't divide, so that the trace serves every size."""
    if "num_frames" in config:
        yield from video_inputs(config)
        return
    conditional = "cross_attention_dim" in config
    yield torch.randn(2, config.in_channels, *((17, 9) if conditional else (32, 32)))
    yield torch.tensor(500.0, dtype=torch.float32)
    if conditional:
        yield torch.randn(2, 38, config.cross_attention_dim)
    if config.get("addition_embed_type"):
        ids = 5 if config.projection_class_embeddings_input_dim == 2560 else 6  # the refiner's have no target size
        yield torch.randn(2, config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim)
        yield torch.randn(2, ids)


def forward_of(config):
    if "num_frames" in config:
        return video_unet_forward
    if "cross_attention_dim" not in config:
        return unconditional_forward
    return unet_xl_forward if config.addition_embed_type else unet_forward


def without_weights(make):
    """What `make` makes, with zeros of stride 0 for weights, which take no memory."""
    with torch.device("meta"):
        model = make()
    for module in model.modules():
        for tensors in module._parameters, module._buffers:
            for name, tensor in tensors.items():
                if tensor is not None:
                    zeros = torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)
                    tensors[name] = torch.nn.Parameter(zeros) if tensors is module._parameters else zeros
    return model


def write(module, arguments, file):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.jit.trace(module, arguments, check_trace=False).save(file)
    strip(file)


def compiled_inputs(config, dtype, latent_size):
    """Of the UNets that take a prompt and nothing else. @throws SystemExit"""
    if "num_frames" in config or config.get("addition_embed_type") or "cross_attention_dim" not in config:
        raise SystemExit("make_unet.py: --compile takes sd15, sd15_narrow, sd21 and ldm4g")
    height, width = latent_size
    return denoiser_inputs(config, dtype, Size(batch=2, height=height, width=width, length=77))


def write_model(name, out, no_weights=False):
    """unet.pt, config.json and a video model's decoder.pt; returns the UNet."""
    make = without_weights if no_weights else (lambda make: make())
    out.mkdir(parents=True, exist_ok=True)
    unet = make(lambda: make_unet(name)).eval().requires_grad_(False)
    write(view_of(unet, forward_of(unet.config)), tuple(inputs(unet.config)), out / "unet.pt")
    if "num_frames" in unet.config:
        decoder = VideoDecoder(make(make_video_vae).eval().requires_grad_(False))
        write(decoder, torch.randn(2, 3, unet.config.out_channels, 17, 9), out / "decoder.pt")
    (out / "config.json").write_text(json.dumps(dict(unet.config), indent=2) + "\n")
    return unet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=UNETS, default="sd15", help="default sd15")
    parser.add_argument("--out", type=Path, help="folder; default build/bench/MODEL, or MODEL_DTYPE")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", type=height_and_width, metavar="HxW", help="for latents of this size, to unet.pt2")
    parser.add_argument("--no-weights", action="store_true", help="zeros that take no room, for `deepcache inspect`")
    args = parser.parse_args()
    quiet()
    name = args.model if args.dtype == "float32" else f"{args.model}_{args.dtype}"
    out = args.out or ROOT / "build/bench" / name
    torch.manual_seed(args.seed)
    torch.set_default_dtype(DTYPES[args.dtype])  # or a half UNet would take three times its memory while it is made
    unet = write_model(args.model, out, args.no_weights)
    if args.compile:
        inputs = compiled_inputs(unet.config, DTYPES[args.dtype], args.compile)
        with torch.no_grad():
            compile_unet(view_of(unet, forward_of(unet.config)), inputs, 0, out / "unet.pt2", print)
    print(f"{out}: {sum(weight.numel() for weight in unet.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
