"""Writes a UNet of Stable Diffusion's full size with random weights, traced as tools/export.py traces, for unet_bench.

    python bench/make_unet.py [sd15|sd21] [--out build/bench/sd15]

The folder gets unet.pt (3.4 GB in float32) and config.json. What a step costs doesn't depend on the weights' values.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import diffusers
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from export import DTYPES, quiet, strip  # noqa: E402
from families import unet_forward, view_of  # noqa: E402

# Where they differ from the defaults of UNet2DConditionModel, which are those of Stable Diffusion 1.
CONFIGS = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd21": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", choices=CONFIGS, default="sd15", help="default sd15; sd21 is the base model"
    )
    parser.add_argument("--out", type=Path, help="folder; default build/bench/MODEL")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    quiet()
    out = args.out or ROOT / "build/bench" / args.model
    out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    dtype = DTYPES[args.dtype]
    unet = diffusers.UNet2DConditionModel(**CONFIGS[args.model]).to(dtype).eval().requires_grad_(False)
    # 17 x 9 latents: a size that the strides (8 in all) don't divide, so that the trace serves every size.
    inputs = (
        torch.randn(2, unet.config.in_channels, 17, 9, dtype=dtype),
        torch.tensor(500.0),
        torch.randn(2, 38, unet.config.cross_attention_dim, dtype=dtype),
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(view_of(unet, unet_forward), inputs, check_trace=False)
    traced.save(out / "unet.pt")
    strip(out / "unet.pt")
    (out / "config.json").write_text(json.dumps(dict(unet.config), indent=2) + "\n")
    print(f"{out}: {sum(weight.numel() for weight in unet.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
