"""Draws what compare.py found: plot.py compare.json, to compare.png beside it."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main():
    file = Path(sys.argv[1])
    rows = [row for row in json.loads(file.read_text())["rows"] if row["unit"] == "x"]
    figure, axes = plt.subplots(figsize=(12, 1.5 + 0.28 * len(rows)), layout="constrained")
    axes.barh(range(len(rows)), [row["value"] for row in rows], color="tab:blue", label="measured")
    limits = [(index, row["limit"]) for index, row in enumerate(rows) if row["limit"] is not None]
    axes.plot([limit for _, limit in limits], [index for index, _ in limits], "|", color="black", markersize=14,
              label="what multiply-accumulates or threads allow")  # fmt: skip
    goals = [(index, float(row["goal"].split()[1])) for index, row in enumerate(rows) if row["goal"]]
    axes.plot([goal for _, goal in goals], [index for index, _ in goals], "D", color="tab:orange", label="to reach")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['part']}: {row['what']} ({row['case']})" for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time of what is named over ours")
    axes.legend(loc="lower right")
    figure.savefig(file.with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    main()
