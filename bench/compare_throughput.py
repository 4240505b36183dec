"""Pictures a second: in batches, with more threads, by several helpers in one process, and of a file of prompts."""

import tempfile
from pathlib import Path

import models
from turns import BIN, Command, close, ratio, row, take_turns, workers

BATCHES = (1, 2, 4, 8)
PROMPTS = ["red heart", "panda", "sunflower", "green apple", "soccer ball", "purple apple", "automobile", "blue heart"]
INTERVAL = 3


def rows(args):
    for name, package, latent_size, steps in (
        ("emoji", models.EMOJI, "16x16", args.steps),
        (args.model, models.package(args.model, args.dtype[0]), args.latent_size[0], min(args.steps, 6)),
    ):
        height, width = (8 * int(side) for side in latent_size.split("x"))
        if name == "emoji":
            height = width = 64
        size = ["--steps", steps, "--height", height, "--width", width]
        case = f"{name}, {width}x{height} pixels, {steps} steps, interval {INTERVAL}"
        yield from batches(args, case, [BIN / "pipeline_bench", "--package", package, *size])
    if args.threads > 1:
        yield from helpers(args)
    yield from prompts(args)


def batches(args, case, command):
    """Of several pictures of a prompt, and with one thread or more."""
    running = workers({threads: [*command, "--threads", threads] for threads in sorted({1, args.threads})})
    turns = {batch: (running[args.threads], f"{INTERVAL} {batch}") for batch in BATCHES}
    if args.threads > 1:
        turns["one thread"] = running[1], f"{INTERVAL} 1"
    times = take_turns(turns, args.rounds)
    close(running)
    for batch in BATCHES[1:]:
        alone = [batch * value for value in times[1]]
        yield row("batches", case, f"pictures a second in batches of {batch}, beside 1", ratio(alone, times[batch]))
    if args.threads > 1:
        value = ratio(times["one thread"], times[1])
        yield row("threads", case, f"pictures a second with {args.threads}, beside 1", value, "x", args.threads)


def helpers(args):
    """Each with a thread of its own, on the same weights, beside one that has all threads."""
    command = [BIN / "unet_bench", "--serve", "--package", models.EMOJI, "--latent-size", "16x16", "--text", "24x96"]
    command += ["--threads", args.threads, "--steps", args.steps, "--interval", INTERVAL]
    running = workers({count: [*command, "--helpers", count] for count in (1, args.threads)})
    times = take_turns({count: (worker, "run") for count, worker in running.items()}, args.rounds)
    close(running)
    case = f"emoji's UNet, {args.steps} steps, interval {INTERVAL}"
    alone = [args.threads * value for value in times[1]]
    what = f"runs a second of {args.threads} helpers, beside 1 with all threads"
    yield row("helpers", case, what, ratio(alone, times[args.threads]))


class Several:
    """Programs, one after the other."""

    def __init__(self, programs):
        self.programs = programs

    def milliseconds(self, line):
        return sum(program.milliseconds(line) for program in self.programs)


def prompts(args):
    """A process for each prompt, beside one for the file of them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.txt"
        file.write_text("\n".join(PROMPTS) + "\n")
        generate = [BIN / "deepcache", "generate", "-m", models.EMOJI, "--steps", "20", "--threads", args.threads]
        generate += ["-o", Path(folder) / "o.png"]
        each = Several([Command(*generate, "-p", prompt) for prompt in PROMPTS])
        turns = {"a process each": (each, ""), 1: (Command(*generate, "--prompts-file", file), "")}
        for batch in (2, 4, 8):
            turns[batch] = Command(*generate, "--prompts-file", file, "--prompt-batch", batch), ""
        times = take_turns(turns, args.rounds)
    case = f"emoji, {len(PROMPTS)} prompts, 20 steps, interval {INTERVAL}"
    yield row("prompts of a file", case, "beside a process for each", ratio(times["a process each"], times[1]))
    for batch in (2, 4, 8):
        yield row("prompts of a file", case, f"{batch} at a time, beside 1", ratio(times[1], times[batch]))
