"""Records which steps DeepCache's own non-uniform schedules compute in full, for the tests of cache policies.

    python tools/references/policies.py [--out tests/data/policies.json]

Calls `sample_from_quad` and `sample_from_quad_center` of DeepCache 0.1.1 over a grid of step counts, intervals, centers
and powers, as its StableDiffusionPipeline does. A case without `center` is of the first; `full_steps` is null where
the original raises ValueError.
"""

import argparse
import ast
import importlib.metadata
import importlib.util
import itertools
import json
import warnings
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
STEPS, INTERVALS, POWERS = (1, 4, 10, 25, 50, 51, 100), (2, 3, 5, 10), (1.05, 1.4, 2.0, 3.0)
CENTERS = (0, 1, 7, 15, 25, 50)


def original_functions():
    """Compiled from DeepCache's file, which as a whole needs an older diffusers."""
    file = Path(importlib.util.find_spec("DeepCache").origin).parent / "sd/pipeline_stable_diffusion.py"
    names = "sample_from_quad", "sample_from_quad_center"
    functions = [node for node in ast.parse(file.read_text()).body if getattr(node, "name", "") in names]
    scope = {"np": numpy}
    exec(compile(ast.Module(functions, []), file, "exec"), scope)
    return (scope[name] for name in names)


def full_steps(sample, *arguments):
    try:
        steps, _ = sample(*arguments)
    except ValueError:
        return None
    return sorted(int(step) for step in steps)


def cases():
    sample_from_quad, sample_from_quad_center = original_functions()
    for steps, interval, power in itertools.product(STEPS, INTERVALS, POWERS):
        count = -(-steps // interval)
        case = dict(num_steps=steps, cache_interval=interval, pow=power)
        yield case | dict(full_steps=full_steps(sample_from_quad, steps, count, power))
        for center in CENTERS:
            if center <= steps:
                found = full_steps(sample_from_quad_center, steps, count, center, power)
                yield case | dict(center=center, full_steps=found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/policies.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore", numpy.exceptions.ComplexWarning)  # of truncating them, which is what happens
    recorded = {
        "command": "python tools/references/policies.py",
        "versions": {name: importlib.metadata.version(name) for name in ("DeepCache", "numpy")},
    }
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases())
    args.out.write_text(f'{json.dumps(recorded)[:-1]}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
