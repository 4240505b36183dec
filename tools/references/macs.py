"""Records the multiply-accumulates of full and cached steps, as PyTorch's own counter sees them under DeepCacheSDHelper.

    python tools/references/macs.py [--out tests/data/macs.json]

For the tiny pipelines with two layers a block, which are those that DeepCache 0.1.1 knows: inputs as [batch, height,
width, prompt length], then {"weights", "attention"} (convolutions and linear layers; attention products) of a full step
and of a cached step of each branch.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipelines import BRANCHES, CountingHelper, quiet, versions
from tiny_pipelines import ROOT, tiny_pipeline

WEIGHTS = ("convolution", "_convolution", "addmm", "mm")
SHAPES = ([1, 8, 8, 24], [2, 13, 17, 7])


def count(unet, inputs):
    # The counter doesn't know the CPU's fused attention; its plain products it does.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(*inputs)
    macs = {"weights": 0, "attention": 0}
    for operator, flops in counter.get_flop_counts()["Global"].items():
        macs["weights" if operator.__name__ in WEIGHTS else "attention"] += flops // 2
    return macs


def record(variant, shape):
    batch, height, width, length = shape
    pipe = tiny_pipeline(variant)
    config = pipe.unet.config
    inputs = (
        torch.randn(batch, config.in_channels, height, width),
        torch.tensor(999),
        torch.randn(batch, length, config.cross_attention_dim),
    )
    cached = []
    for branch in range(BRANCHES[variant]):
        helper = CountingHelper(pipe=pipe)
        helper.set_params(cache_interval=2, cache_branch_id=branch)
        helper.enable()
        full, shallow = count(pipe.unet, inputs), count(pipe.unet, inputs)
        helper.disable()
        cached.append(shallow)
    return {"variant": variant, "shape": shape, "full": full, "cached": cached}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/macs.json")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    cases = [record(variant, shape) for variant in ("sd1", "sd2") for shape in SHAPES]
    table = {"command": "python tools/references/macs.py", "versions": versions(), "cases": cases}
    args.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
