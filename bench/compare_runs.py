"""Whole text-to-image runs: text encoder, steps, decoding. Every side runs DDIM with as many calls of its UNet."""

import models
from turns import BIN, GGML, PEERS, ROOT, close, ratio, row, take_turns, workers

INTERVALS = {
    3: (">= 2.5", ">= 1.8", ">= 2"),
    5: (">= 3.5", None, None),
}  # faster than our own uncached, Python's, OpenVINO's


def commands(args, dtype, latent_size):
    height, width = (8 * int(side) for side in latent_size.split("x"))
    flags = ["--steps", args.steps, "--height", height, "--width", width, "--threads", args.threads]
    package = models.package(args.model, dtype)
    found = {"ours": [BIN / "pipeline_bench", "--package", package, "--scheduler", "ddim", *flags]}
    for peer in args.peers:
        if peer == "ggml" and args.model != "sd15":
            continue  # it runs the published architectures only
        python = GGML if peer == "ggml" else PEERS
        folder = (models.openvino_pipeline if peer == "openvino" else models.pipeline)(args.model)
        found[peer] = [*python, ROOT / "bench/peers/runs.py", peer, folder, "--dtype", dtype, *flags]
    return found


def rows(args):
    for dtype in args.dtype:
        for latent_size in args.latent_size:
            yield from measure(args, dtype, latent_size)


def measure(args, dtype, latent_size):
    running = workers(commands(args, dtype, latent_size))
    turns = {}
    for name, worker in running.items():
        turns[f"{name}, uncached"] = worker, "1 1"
        if name in ("ours", "diffusers"):
            turns |= {f"{name}, interval {interval}": (worker, f"{interval} 1") for interval in INTERVALS}
    times = take_turns(turns, args.rounds, warm_up=0)  # a run's first step is one of many
    close(running)
    case = f"{dtype}, {latent_size}, {args.steps} steps"
    for interval, (own_goal, python_goal, openvino_goal) in INTERVALS.items():
        part = f"a run, interval {interval}"
        ours = times[f"ours, interval {interval}"]
        limit = models.limit(models.package(args.model, dtype), latent_size, args.steps, interval)
        goals = {
            "ours, uncached": own_goal,
            f"diffusers, interval {interval}": python_goal,
            "openvino, uncached": openvino_goal,
        }
        for name, values in times.items():
            if name.endswith("uncached") or (name.endswith(f" {interval}") and not name.startswith("ours")):
                own = name == "ours, uncached"
                yield row(part, case, name, ratio(values, ours), "x", limit if own else None, goals.get(name), values)
