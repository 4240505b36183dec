"""Processes that take turns, and what their times say of each other.

Each waits while the others run: one of this, one of the next, and so on, again and again. So whatever else the machine
does meets all alike. Figures are medians of the rounds, ratios medians of the rounds' own ratios.
"""

import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / "build/bin"
MODELS = ROOT / "build/bench"
PYTHON = ROOT / "build/venv/bin/python"
GGML = [str(ROOT / "build/peers_ggml/bin/python")]
PEERS = [str(ROOT / "build/peers/bin/python"), "-W", "ignore"]


class Worker:
    """Says "ready", and then answers each line with the milliseconds of what it did."""

    def __init__(self, *command):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while self.read() != "ready":
            pass

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"it ended with {self.process.wait()}: {' '.join(self.command)}")
        return line.strip()

    def milliseconds(self, line):
        time.sleep(0.05)  # until the others' threads, which spin for a while, are asleep
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return float(self.read())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def workers(commands):
    """By name; one after the other, as loading takes more memory than running."""
    return {name: Worker(*command) for name, command in commands.items()}


def close(running):
    for worker in running.values():
        worker.close()


class Command:
    """A program that is run from its start to its end each time."""

    def __init__(self, *command):
        self.command = [str(part) for part in command]

    def milliseconds(self, _):
        start = time.perf_counter()
        result = subprocess.run(self.command, capture_output=True, text=True)
        if result.returncode != 0:
            raise SystemExit(f"it ended with {result.returncode}: {' '.join(self.command)}\n{result.stderr}")
        return 1000 * (time.perf_counter() - start)


def take_turns(turns, rounds, warm_up=1):
    """Milliseconds by name, a list of `rounds` each, of {name: (worker, line)}."""
    times = {name: [] for name in turns}
    for round_ in range(-warm_up, rounds):
        for name, (worker, line) in turns.items():
            value = worker.milliseconds(line)
            if round_ >= 0:
                times[name].append(value)
    return times


def ratio(longer, shorter):
    """How many times as long: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(longer, shorter, strict=True))


def row(part, case, what, value, unit="x", limit=None, goal=None, milliseconds=None):
    """A line of the table. `value` is a ratio, unless the unit says otherwise; `limit` what multiply-accumulates allow;
    `goal` what is to be reached, such as ">= 2"."""
    return dict(part=part, case=case, what=what, value=value, unit=unit, limit=limit, goal=goal, ms=milliseconds)
