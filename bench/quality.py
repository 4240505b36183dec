"""How near cached pictures are to the uncached ones, on the embedded model.

    python bench/quality.py --steps 50 --scheduler ddim --guidance 4

Runs txt2img --compare with each of a list of flags, on the prompts of quality_prompts.txt and two seeds. The first half
of the prompts are names that the model was trained on, the second half new combinations. Prints the mean PSNR and SSIM
of the pictures beside those of the uncached run with the same seed. Fewer steps are uncached runs beside the uncached
run of --steps, as 8-bit pictures. Writes the numbers as JSON. Times aren't measured, so the machine may be busy: each
of several processes has one thread.
"""

import argparse
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
INTERVALS = 2, 3, 5, 7, 10
FEWER = 7, 10, 12, 19, 25


def ways(args):
    for interval in INTERVALS:
        for order in args.orders:
            yield f"interval {interval}, order {order}", ["--cache-interval", interval, "--forecast-order", order]
    for tolerance in args.tolerances:
        yield f"adaptive, tolerance {tolerance}", ["--skip-mode", "adaptive", "--tolerance", tolerance]
    for extra in args.also:
        yield extra, extra.split()


def txt2img(args, folder, seed, *flags):
    command = [
        ROOT / "build/bin/txt2img", "-m", args.model, "--prompts-file", args.prompts, "--scheduler", args.scheduler,
        "--cfg-scale", args.guidance, "--seed", seed, "--threads", 1, "-o", folder / "o.png", *flags,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, env=environment)


def cached(args, name, flags):
    """Of each prompt and seed: PSNR, SSIM, full steps."""
    rows = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "r.json"
            txt2img(args, Path(folder), seed, "--steps", args.steps, "--compare", "--report", report, *flags)
            for run in json.loads(report.read_text()):
                rows.append((run["compare"]["psnr_db"], run["compare"]["ssim"], run["totals"]["full_steps"]))
    return name, rows


def pictures(args, steps, seed):
    with tempfile.TemporaryDirectory() as folder:
        txt2img(args, Path(folder), seed, "--steps", steps, "--no-cache")
        files = sorted(Path(folder).glob("*.png"), key=lambda file: int(file.stem.split("-")[1]))
        return [np.asarray(Image.open(file)) / 255 for file in files]


def fewer(args, steps):
    rows = []
    for seed in args.seeds:
        for few, full in zip(pictures(args, steps, seed), pictures(args, args.steps, seed), strict=True):
            rows.append((-10 * np.log10(max(np.square(few - full).mean(), 1e-12)), None, steps))
    return f"{steps} steps, uncached", rows


def summary(args, name, rows):
    half = len(rows) // len(args.seeds) // 2
    is_known = np.array([i % (2 * half) < half for i in range(len(rows))])
    psnr = np.array([row[0] for row in rows])
    ssim = None if rows[0][1] is None else float(np.mean([row[1] for row in rows]))
    return {
        "way": name,
        "full_steps": float(np.mean([row[2] for row in rows])),
        "psnr_known": float(psnr[is_known].mean()),
        "psnr_new": float(psnr[~is_known].mean()),
        "psnr": float(psnr.mean()),
        "worst": float(psnr.min()),
        "ssim": ssim,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/emoji")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("quality_prompts.txt"))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--scheduler", default="ddim")
    parser.add_argument("--guidance", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--orders", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--tolerances", type=float, nargs="*", default=[0.18])
    parser.add_argument("--also", nargs="*", default=[], help='further flags of txt2img, such as "--skip-mode quad"')
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/quality.json")
    args = parser.parse_args()

    with ThreadPoolExecutor(args.jobs) as pool:
        found = [pool.submit(cached, args, *way) for way in ways(args)]
        found += [pool.submit(fewer, args, steps) for steps in FEWER if steps < args.steps]
        rows = []
        print(f"{'':34} full   known     new    mean   worst    SSIM")
        for future in found:
            rows.append(row := summary(args, *future.result()))
            ssim = "" if row["ssim"] is None else f"{row['ssim']:.4f}"
            print(
                f"{row['way']:34} {row['full_steps']:4.1f}  {row['psnr_known']:6.1f}  {row['psnr_new']:6.1f}  "
                f"{row['psnr']:6.1f}  {row['worst']:6.1f}  {ssim}",
                flush=True,
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(getattr(args, key)) for key in ("model", "steps", "scheduler", "guidance", "seeds")}
    args.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
