"""This library beside its peers on this machine, all in one: make bench

    make bench BENCH_ARGS="--quick"                                   # a narrow model, in some minutes
    make bench BENCH_ARGS="--parts steps runs --dtype bfloat16 --latent-size 64x64"

Prints a table, and writes it with each round's times as JSON, and a plot. Run it on an idle machine. What is measured
is made where it isn't there yet: Stable Diffusion 1.5 at its full size with random weights, whose steps cost what the
real one's do. README.md says what the parts are.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path

import compare_limits
import compare_runs
import compare_starts
import compare_steps
import compare_throughput
from turns import MODELS, PEERS, ROOT

PARTS = {
    "steps": compare_steps.rows,
    "runs": compare_runs.rows,
    "starts": compare_starts.rows,
    "throughput": compare_throughput.rows,
    "limits": compare_limits.rows,
}
QUICK = {"model": "sd15_narrow", "latent_size": ["16x16"], "steps": 6, "rounds": 3}
DTYPES = ["float32", "bfloat16"]
CPU = Path("/proc/cpuinfo")
COMPUTES_WITH_BFLOAT16 = not CPU.exists() or "avx512_bf16" in CPU.read_text()  # others take many times as long with it
ALL_PEERS = ("diffusers", "openvino", "ggml")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", choices=["sd15", "sd15_narrow"], default="sd15")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES if COMPUTES_WITH_BFLOAT16 else ["float32"],
                        help="default: both, where the CPU computes with bfloat16")  # fmt: skip
    parser.add_argument("--latent-size", nargs="+", default=["32x32", "64x64"])
    parser.add_argument("--text", default="77x768", help="of a step: prompt length x width of its embedding")
    parser.add_argument("--batch", type=int, default=2, help="of a step")
    parser.add_argument("--steps", type=int, default=50, help="of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=ALL_PEERS, default=ALL_PEERS)
    parser.add_argument("--pipeline", type=Path, help="the embedded model's diffusers folder, if it isn't to be made")
    parser.add_argument(
        "--out", type=Path, default=MODELS / "compare", help="of .json and .png; default build/bench/compare"
    )
    parser.add_argument("--quick", action="store_true", help=f"other defaults: {QUICK}")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def line(row):
    limit = "" if row["limit"] is None else f"{row['limit']:.2f}"
    value = f"{row['value']:.2f} {row['unit']}"
    return f"{row['part']:<20} {row['case']:<38} {row['what']:<52} {value:>9} {limit:>7}  {row['goal'] or ''}"


def main():
    args = parse_arguments()
    rows = []
    for part in args.parts:
        for row in PARTS[part](args):
            rows.append(row)
            print(line(row), flush=True)
        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        report = {"machine": platform.processor() or platform.machine(), "arguments": arguments, "rows": rows}
        args.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")  # of the parts that are done
    print(f"\n{'part':<20} {'case':<38} {'what':<52} {'ours':>9} {'limit':>7}  to reach")
    print("\n".join(map(line, rows)))
    subprocess.run([*PEERS, ROOT / "bench/plot.py", args.out.with_suffix(".json")], check=True)


if __name__ == "__main__":
    main()
