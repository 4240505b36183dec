"""Draws what quality.py found, quality against speedup: plot_quality.py build/bench/quality.json docs/quality.png"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

LABELS = {
    "DeepCache": "DeepCache, the latest feature as it is",
    "forecast": "forecast of the feature",
    "even": "forecast, even full steps",
    "adaptive": "forecast, adaptive full steps",
    "tuned": "forecast, tuned full steps",
    "output": "forecast of the whole output, even full steps",
    "fewer steps": "fewer steps",
}


def main():
    found, target = Path(sys.argv[1]), Path(sys.argv[2])
    rows = json.loads(found.read_text())["rows"]
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for kind, label in LABELS.items():
        line = sorted((row["macs_speedup"], row["psnr"]) for row in rows if row["kind"] == kind)
        if not line:
            continue
        dashed = "--" if kind in ("output", "fewer steps") else "-"
        axes.plot(*zip(*line, strict=True), f"o{dashed}", markersize=4, label=label)
    axes.set_xlabel("speedup of the steps, by multiply-accumulates")
    axes.set_ylabel("PSNR to the full run, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()
