"""What a full and a cached step of a UNet take beside the same UNet in diffusers and in OpenVINO.

    python3.11 -m venv build/peers && build/peers/bin/pip install -r bench/peers/requirements.txt
    build/venv/bin/python bench/make_unet.py sd15                     # with --dtype bfloat16 too, to compare in it
    python3 bench/compare_steps.py --model sd15 --latent-size 32x32

Each runs in a process of its own, which waits while the others run: a step of one, a step of the next, and so on, again
and again. Medians of the rounds, and of the rounds' own ratios. sd15 takes 20 GB of memory with the default peers.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("diffusers", "openvino")


class Worker:
    """Runs a step when it is told to."""

    def __init__(self, command):
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"compare_steps.py: it ended with {self.process.wait()}: {' '.join(self.command)}")
        return line.strip()

    def milliseconds(self, kind):
        time.sleep(0.05)  # until the others' threads, which spin for a while, are asleep
        self.process.stdin.write(kind + "\n")
        self.process.stdin.flush()
        return float(self.read())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", help="one that bench/make_unet.py has made")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--latent-size", default="32x32")
    parser.add_argument("--text", default="77x768")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="writes each round's times to this file")
    return parser.parse_args()


def workers(args):
    """By name; one after the other, as loading takes more memory than running."""
    folder = ROOT / "build/bench"
    for dtype in args.dtype:
        traced = args.model if dtype == "float32" else f"{args.model}_{dtype}"
        size = ["--dtype", dtype, "--latent-size", args.latent_size, "--text", args.text]
        size += ["--batch", str(args.batch), "--threads", str(args.threads)]
        ours = [str(ROOT / "build/bin/unet_bench"), "--serve", "--unet", str(folder / traced / "unet.pt")]
        commands = {"deepcache": ours + size}
        for peer in args.peers:
            python = str(ROOT / "build/peers/bin/python")
            command = [python, "-W", "ignore", str(ROOT / "bench/peers/worker.py"), peer, "--model", args.model]
            commands[peer] = [*command, "--unet", str(folder / args.model / "unet.pt"), *size]
        for name, command in commands.items():
            worker = Worker(command)
            while worker.read() != "ready":
                pass
            yield f"{name} {dtype}", worker


def measure(running, rounds):
    """Milliseconds by kind of step, a list of `rounds` each; the first three of them are for warming up."""
    times = {}
    for round_ in range(-3, rounds):
        for name, worker in running.items():
            for kind in ("full", "cached") if name.startswith("deepcache") else ("full",):
                value = worker.milliseconds(kind)
                if round_ >= 0:
                    times.setdefault(f"{name} {kind}", []).append(value)
    return times


def main():
    args = parse_arguments()
    times = measure(dict(workers(args)), args.rounds)
    print(
        f"{args.model}, latents {args.latent_size}, text {args.text}, batch {args.batch}, {args.threads} threads, "
        f"{args.rounds} rounds"
    )
    for name, values in times.items():
        dtype = name.split()[1]
        ours = times[f"deepcache {dtype} full"]
        ratio = statistics.median(value / own for value, own in zip(values, ours, strict=True))
        print(f"{name:28} {statistics.median(values):9.1f} ms   {ratio:6.3f} of our full step")
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args) | {"json": None}, "milliseconds": times}, indent=2))


if __name__ == "__main__":
    main()
