"""Makes what is measured, where it isn't there yet: models with random weights, diffusers' and OpenVINO's folders."""

import json
import subprocess

from turns import BIN, MODELS, PEERS, PYTHON, ROOT

EMOJI = ROOT / "models/emoji"


def make(target, *command):
    """Runs a command that makes the target, unless it is there."""
    if not target.exists():
        print(f"making {target}", flush=True)
        MODELS.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(part) for part in command], check=True)
    return target


def traced_unet(model, dtype):
    folder = MODELS / (model if dtype == "float32" else f"{model}_{dtype}")
    return make(folder / "unet.pt", PYTHON, ROOT / "bench/make_unet.py", model, "--dtype", dtype)


def pipeline(model):
    """A diffusers folder, in float16."""
    last = MODELS / f"{model}_pipeline/model_index.json"
    return make(last, PYTHON, ROOT / "bench/make_pipeline.py", model).parent


def package(model, dtype):
    out = MODELS / f"{model}_package_{dtype}"
    return make(out, PYTHON, ROOT / "tools/export.py", pipeline(model), out, "--dtype", dtype)


def emoji_pipeline():
    """The embedded model as a diffusers folder."""
    out = MODELS / "emoji_pipeline"
    return make(out, *PEERS, ROOT / "bench/peers/folder_of_package.py", EMOJI, out)


def openvino_pipeline(model):
    """The folder that OpenVINO GenAI's pipelines read."""
    out = MODELS / f"{model}_openvino"
    return make(out, *PEERS, ROOT / "bench/peers/openvino_folder.py", pipeline(model), out)


def macs(model, latent_size, batch=1):
    """Multiply-accumulates of a full step and of a cached one, at branch 0."""
    command = [BIN / "deepcache", "inspect", model, "--json", "--latent-size", latent_size, "--batch", batch]
    found = json.loads(subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout)
    cached = found["branches"][0]["cached_step"]
    return sum(found["full_step"].values()), sum(cached.values())


def limit(model, latent_size, steps, interval):
    """How many times faster a cached run is than an uncached one, by multiply-accumulates: those of guided steps, and
    of the rest, such as decoding, which no cache saves."""
    full, cached = macs(model, latent_size, batch=2)
    height, width = (8 * int(side) for side in latent_size.split("x"))
    command = [BIN / "pipeline_bench", "--package", model, "--steps", 1, "--height", height, "--width", width, "--macs"]
    run = subprocess.run([str(part) for part in command], check=True, capture_output=True)
    rest = int(run.stdout) - full
    full_steps = -(-steps // interval)
    return (steps * full + rest) / (full_steps * full + (steps - full_steps) * cached + rest)
