"""From the start of a process to its first picture, with the embedded model, beside Python's diffusers; and a run's
first step beside its later ones."""

import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import models
from turns import BIN, PEERS, ROOT, Command, ratio, row, take_turns

STEPS = 20


def rows(args):
    with tempfile.TemporaryDirectory() as folder:
        yield from measure(args, Path(folder))


def measure(args, folder):
    ours = [BIN / "txt2img", "-m", models.EMOJI, "-p", "red heart", "--steps", STEPS, "--threads", args.threads]
    turns = {
        "interval 3": Command(*ours, "-o", folder / "cached.png"),
        "uncached": Command(*ours, "--no-cache", "-o", folder / "full.png"),
    }
    if "diffusers" in args.peers:
        theirs = [*PEERS, ROOT / "bench/peers/first_picture.py", args.pipeline or models.emoji_pipeline()]
        turns["diffusers"] = Command(*theirs, "--steps", STEPS, "--threads", args.threads, folder / "diffusers.png")
    times = take_turns({name: (command, "") for name, command in turns.items()}, args.rounds)
    case = f"emoji, {STEPS} steps, cold"
    if "diffusers" in times:
        for name, goal in ("interval 3", ">= 2"), ("uncached", None):
            value = ratio(times["diffusers"], times[name])
            yield row("first picture", case, f"diffusers beside ours, {name}", value, "x", None, goal, times[name])
    for name in "interval 3", "uncached":
        command = [*turns[name].command, "--report", folder / "report.json"]
        yield first_step(args, name, command, folder / "report.json")


def first_step(args, name, command, report):
    ratios = []
    for _ in range(args.rounds):
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        steps = json.loads(report.read_text())["steps"]
        full = [step["milliseconds"] for step in steps if step["mode"] == "full"]
        ratios.append(full[0] / statistics.median(full[1:]))
    value = statistics.median(ratios)
    return row("first step", f"emoji, {STEPS} steps, {name}", "beside a later full one", value, "x", None, "<= 1.2")
