"""Records multiply-accumulates of full and cached steps, as PyTorch counts them under DeepCacheSDHelper.

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

SHAPES = ([1, 8, 8, 24], [2, 13, 17, 7])


def total(run, backend):
    with sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def both_totals(run):
    """For `split`."""
    return [total(run, backend) for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)]


def split(plain, fused):
    """Attention's plain products are counted, its fused CPU kernel isn't: so that is what they differ by.

    Operators don't tell: a linear layer may run as a batched product, as attention does.
    """
    return {"weights": fused, "attention": plain - fused}


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
        totals = []
        for backend in SDPBackend.MATH, SDPBackend.FLASH_ATTENTION:
            helper = CountingHelper(pipe=pipe)
            helper.set_params(cache_interval=2, cache_branch_id=branch)
            helper.enable()
            totals.append([total(lambda: pipe.unet(*inputs), backend) for _ in range(2)])
            helper.disable()
        full, shallow = (split(plain, fused) for plain, fused in zip(*totals, strict=True))
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
