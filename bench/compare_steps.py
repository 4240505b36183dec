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
from pathlib import Path

import models
from turns import BIN, PEERS, ROOT, close, ratio, row, take_turns, workers

STEP_PEERS = ("diffusers", "openvino")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sd15", help="one that bench/make_unet.py makes")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--peers", nargs="*", choices=STEP_PEERS, default=STEP_PEERS)
    parser.add_argument("--latent-size", default="32x32")
    parser.add_argument("--text", default="77x768")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="writes each round's times to this file")
    return parser.parse_args()


def commands(args, dtype, latent_size):
    size = ["--dtype", dtype, "--latent-size", latent_size, "--text", args.text]
    size += ["--batch", args.batch, "--threads", args.threads]
    unet = models.traced_unet(args.model, dtype)
    found = {f"deepcache {dtype}": [BIN / "unet_bench", "--serve", "--unet", unet, *size]}
    for peer in args.peers:
        if peer in STEP_PEERS:
            command = [*PEERS, ROOT / "bench/peers/worker.py", peer, "--model", args.model]
            in_float32 = models.traced_unet(args.model, "float32") if peer == "openvino" else unet
            found[f"{peer} {dtype}"] = [*command, "--unet", in_float32, *size]
    return found


def measure(running, rounds):
    """Milliseconds by name, dtype and kind of step, a list of `rounds` each."""
    turns = {}
    for name, worker in running.items():
        for kind in ("full", "cached") if name.startswith("deepcache") else ("full",):
            turns[f"{name} {kind}"] = worker, kind
    return take_turns(turns, rounds, warm_up=3)


def rows(args):
    """For compare.py."""
    for dtype in args.dtype:
        for latent_size in args.latent_size:
            running = workers(commands(args, dtype, latent_size))
            times = measure(running, args.rounds)
            close(running)
            full, cached = times[f"deepcache {dtype} full"], times[f"deepcache {dtype} cached"]
            case = f"{dtype}, {latent_size}, batch {args.batch}"
            full_macs, cached_macs = models.macs(models.traced_unet(args.model, dtype), latent_size)
            yield row(
                "a full step",
                case,
                "our own, beside our cached step",
                ratio(full, cached),
                "x",
                full_macs / cached_macs,
            )
            for peer in args.peers:
                if values := times.get(f"{peer} {dtype} full"):
                    goal = ">= 1" if peer == "openvino" else None
                    yield row("a full step", case, peer, ratio(values, full), "x", None, goal, values)


def main():
    args = parse_arguments()
    running = {}
    for dtype in args.dtype:
        running |= workers(commands(args, dtype, args.latent_size))
    times = measure(running, args.rounds)
    print(
        f"{args.model}, latents {args.latent_size}, text {args.text}, batch {args.batch}, {args.threads} threads, "
        f"{args.rounds} rounds"
    )
    for name, values in times.items():
        ours = times[f"deepcache {name.split()[1]} full"]
        print(f"{name:28} {statistics.median(values):9.1f} ms   {ratio(values, ours):6.3f} of our full step")
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args) | {"json": None}, "milliseconds": times}, indent=2))


if __name__ == "__main__":
    main()
