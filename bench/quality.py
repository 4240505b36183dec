"""How near cached pictures are to the uncached ones, on the embedded model: `deepcache compare`, for two seeds.

    python bench/quality.py --steps 50 --scheduler ddim --cfg-scale 4

Flags other than these are `deepcache compare`'s. The first half of the prompts of quality_prompts.txt are names that
the model was trained on, the second half new combinations. Prints the means over prompts and seeds, and writes them as
JSON. The speedup is by multiply-accumulates; times aren't read, so the machine may be busy: each seed has a process of
one thread.
"""

import argparse
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def compare(args, seed):
    """The ways of one seed, as the report has them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "r.json"
        command = [
            ROOT / "build/bin/deepcache", "compare", "-m", args.model, "--prompts-file", args.prompts, "--threads", 1,
            "--seed", seed, "--report", report, "-o", Path(folder) / "r.html", *args.flags,
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, env=environment)
        return json.loads(report.read_text())["ways"]


def summary(seeds):
    """Of one way, in all seeds."""
    runs = [run for seed in seeds for run in seed["prompts"]]
    half = len(seeds[0]["prompts"]) // 2
    psnr = {
        "known": [run["psnr_db"] for seed in seeds for run in seed["prompts"][:half]],
        "new": [run["psnr_db"] for seed in seeds for run in seed["prompts"][half:]],
    }
    means = {key: float(np.mean([run[key] for run in runs])) for key in ("full_steps", "macs_speedup", "ssim")}
    return {
        "way": seeds[0]["name"],
        "kind": seeds[0]["kind"],
        **means,
        "psnr_known": float(np.mean(psnr["known"])),
        "psnr_new": float(np.mean(psnr["new"])),
        "psnr": float(np.mean(psnr["known"] + psnr["new"])),
        "worst": min(psnr["known"] + psnr["new"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/emoji")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("quality_prompts.txt"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/quality.json")
    args, args.flags = parser.parse_known_args()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seeds = list(pool.map(lambda seed: compare(args, seed), args.seeds))
    rows = [summary(way) for way in zip(*seeds, strict=True)]
    print(f"{'':24} full  speedup   known     new    mean   worst    SSIM")
    for row in rows:
        print(
            f"{row['way']:24} {row['full_steps']:4.1f}  {row['macs_speedup']:7.2f}  {row['psnr_known']:6.1f}  "
            f"{row['psnr_new']:6.1f}  {row['psnr']:6.1f}  {row['worst']:6.1f}  {row['ssim']:.4f}"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": str(args.model), "seeds": args.seeds, "flags": args.flags}
    args.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
