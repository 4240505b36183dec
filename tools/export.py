"""Exports a diffusers pipeline or ControlNet folder, or a CompVis checkpoint, as a model package for the C++ library.

    python tools/export.py PIPELINE_DIR OUT_DIR [--dtype float32] [--storage-dtype float16]
    python tools/export.py model.ckpt OUT_DIR --config cin256-v2.yaml
    python tools/export.py PIPELINE_DIR OUT_DIR --backend aoti [--cache-branch-id 0] [--size 512x512] [--batch 2]

Each network is traced to TorchScript, so that one file serves every batch size, latent size and prompt length, and is
checked against the Python pipeline before the package appears under its name. The UNet can be compiled to native code
instead, for one size. docs/export.md describes the package.
Exit codes: 0 done, 1 the export or its check failed, 2 the arguments or the pipeline folder are no good.
"""

# ruff: noqa: E402  (a warning that diffusers gives where it is imported must be silenced before)

import argparse
import ctypes
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

warnings.filterwarnings("ignore", message="CUDA is not available")

import diffusers
import torch
import transformers

import aoti
from adapters import adapt, file_of
from controlnets import is_model_folder, load_controlnet
from families import FAMILIES, OTHER_FAMILIES, UsageError, load_pipeline, modules, vae_in
from latent_diffusion import is_checkpoint, load_latent_diffusion
from places import check_place, put_in_place
from stable_video import FAMILIES as STABLE_VIDEO
from text_to_video_zero import FAMILIES as TEXT_TO_VIDEO_ZERO
from tracing import CheckError, check_network, check_sizes, difference, round_weights, save_network, trace_network
from unconditional import FAMILIES as UNCONDITIONAL

FORMAT_VERSION = 2
PIPELINES = FAMILIES | STABLE_VIDEO | TEXT_TO_VIDEO_ZERO | UNCONDITIONAL
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BACKENDS = ("torchscript", "aoti", "both")
CHECK_PROMPT, CHECK_STEPS, CHECK_GUIDANCE = "a photo of a red apple", 4, 5.0


class Progress:
    """Says what is being done, on stderr: on a terminal in one line that is rewritten, elsewhere in a line each."""

    def __init__(self):
        self.start, self.rewrites = time.monotonic(), sys.stderr.isatty()

    def clear(self):
        if self.rewrites:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def stage(self, text):
        self.clear()
        end = "" if self.rewrites else "\n"
        print(f"[{time.monotonic() - self.start:4.0f} s] {text}", end=end, file=sys.stderr, flush=True)

    def say(self, text):
        """A result, to stdout."""
        self.clear()
        print(text, flush=True)


# ---- A run of the whole pipeline


def input_pictures(family, side, count=1):
    """What the family's pipeline must be given besides a prompt, to run all steps at this size."""
    generator, channels = torch.Generator().manual_seed(1), dict(image=3, mask_image=1)
    pictures = {name: torch.rand(1, channels[name], side, side, generator=generator) for name in family.pictures}
    arguments = {name: picture.repeat(count, 1, 1, 1) for name, picture in pictures.items()}
    # An image alone tells the size.
    size = {} if family.pictures == ("image",) else dict(height=side, width=side)
    return arguments | size | (dict(strength=1.0) if pictures else {})


def sample(pipe, family):
    """A short run, of DDIM unless the family has one of its own: final latents, and the picture that they decode to."""
    if family.sample:
        return family.sample(pipe, CHECK_STEPS)
    scheduler, pipe.scheduler = pipe.scheduler, diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    latents = pipe(
        CHECK_PROMPT,
        **input_pictures(family, 16 * pipe.vae_scale_factor),
        **family.arguments,
        num_inference_steps=CHECK_STEPS,
        guidance_scale=CHECK_GUIDANCE,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    pipe.scheduler = scheduler
    decoder = next(network for network in family.networks if network.file == "vae/decoder.pt")
    vae = vae_in(pipe, decoder.dtype(pipe))
    picture = vae.decode(latents.to(decoder.dtype(pipe)) / vae.config.scaling_factor, return_dict=False)[0]
    return {"latents": latents, "picture": picture}


def agreement(worst):
    return "bit-equal" if worst == 0 else f"within {worst:.1e}"


def psnr(actual, expected):
    """Of pictures in [-1, 1], in dB."""
    error = (actual.double().clamp(-1, 1) - expected.double().clamp(-1, 1)).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf


# ---- Writing


def sha256(file):
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(out, family, dtype, storage, dtypes):
    """`dtypes` are those that the networks run in, of which the manifest says the ones that aren't `dtype`."""
    files = {
        file.relative_to(out).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(out.rglob("*"))
        if file.is_file()
    }
    for name, other in dtypes.items():
        if other != DTYPES[dtype]:
            files[name]["dtype"] = str(other).removeprefix("torch.")
    exporter = {
        "name": "deepcache tools/export.py",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "family": family.name,
        "dtype": dtype,
        "storage_dtype": storage,
        "exporter": exporter,
        "files": files,
    }
    part = out / "deepcache.json.part"
    part.write_text(json.dumps(manifest, indent=2) + "\n")
    part.replace(out / "deepcache.json")
    return files


def write_config(configured, file):
    """The configuration that runs here, which isn't always what the pipeline folder's file says.

    Older files lack settings (a VAE's scaling_factor), or have some that the pipeline puts right when it is made (a
    UNet's sample_size, a scheduler's steps_offset and clip_sample). A scheduler's settings that nobody gave are left
    to the class that reads them, as `from_config` of another class leaves them: SD 1.5's PNDM doesn't say how it spaces
    timesteps.
    """
    config = json.loads(configured.to_json_string())
    if isinstance(configured, diffusers.SchedulerMixin):
        defaults = type(configured)().config
        for name in configured.config.get("_use_default_values", ()):
            if config.get(name) == defaults.get(name):
                config.pop(name, None)
    config.pop("_name_or_path", None)  # a folder of the machine that made or exported it
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def round_all(pipe, dtype, storage):
    for module in modules(pipe):
        round_weights(module, DTYPES[storage])
        round_weights(module, DTYPES[dtype])


def write_networks(pipe, family, out, dtype, storage, say, stage):
    """The exported networks by file. @throws CheckError if one doesn't do what the pipeline's does."""
    loaded = {}
    for network in family.networks:
        start = time.monotonic()
        stage(f"{network.file}: tracing")
        traced = trace_network(network, pipe)
        stage(f"{network.file}: saving")
        loaded[network.file] = save_network(traced, network.dtype(pipe), DTYPES[storage], out / network.file)
        worst = check_network(network, pipe, loaded[network.file], stage)
        size, seconds = (out / network.file).stat().st_size / 1e6, time.monotonic() - start
        say(f"{network.file}: {size:.1f} MB, {agreement(worst)} at {len(check_sizes(pipe))} sizes, {seconds:.1f} s")
    return loaded


def write_configs(pipe, out):
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):  # diffusers' are their own configuration, transformers' have one
            configured = component if isinstance(component, diffusers.ConfigMixin) else component.config
            write_config(configured, out / name / "config.json")


def write_compiled(source, family, out, options, say, stage):
    """@throws CheckError if the compiled UNet doesn't do what the pipeline's does"""
    start = time.monotonic()
    file, worst = aoti.write_unet(source, family, out, options, stage)
    size, seconds = file.stat().st_size / 1e6, time.monotonic() - start
    say(f"{file.relative_to(out)}: {size:.1f} MB, {agreement(worst)} in a full and a cached step, {seconds:.1f} s")


def finish(source, family, out, dtype, storage, compiled, say, stage):
    if compiled:
        write_compiled(source, family, out, compiled, say, stage)
    stage("hashing the files")
    files = write_manifest(out, family, dtype, storage, {n.file: n.dtype(source) for n in family.networks})
    say(f"{len(files)} files, {sum(entry['bytes'] for entry in files.values()) / 1e6:.1f} MB")


def write_models(source, family, out, dtype, storage, compiled, say, stage):
    """Fills the empty folder `out` from what is no pipeline of diffusers: there is no run of one to compare.

    @throws CheckError if a saved file doesn't do what its network does
    """
    round_all(source, dtype, storage)
    write_networks(source, family, out, dtype, storage, say, stage)
    write_configs(source, out)
    if "scheduler" in source.components:
        write_config(source.scheduler, out / "scheduler/scheduler_config.json")
    finish(source, family, out, dtype, storage, compiled, say, stage)


def write_package(pipe, family, out, dtype, storage, compiled, say, stage):
    """Fills the empty folder `out`. @throws CheckError if a saved file doesn't do what the pipeline does."""
    run, exact = f"{CHECK_STEPS} {'' if family.sample else 'DDIM '}steps", None
    if storage != dtype:
        stage(f"{run} of the pipeline")
        exact = sample(pipe, family)
        round_all(pipe, dtype, storage)
    stage(f"{run} of the pipeline" + (f", its weights rounded to {storage}" if exact else ""))
    expected = sample(pipe, family)
    loaded = write_networks(pipe, family, out, dtype, storage, say, stage)
    stage(f"{run} on the exported networks")
    with ExitStack() as stack:
        for network in family.networks:
            if network.stand_in:
                stack.enter_context(mock.patch.object(*network.stand_in(pipe, loaded[network.file])))
        actual = sample(pipe, family)
    worst = max(difference(actual[what], expected[what], f"{what} of {run}") for what in expected)
    say(f"{run}: {agreement(worst)}")
    if exact:
        decibels = psnr(expected["picture"], exact["picture"])
        say(f"{storage} storage: after {run} {decibels:.1f} dB to the unrounded weights' picture")
    write_config(pipe, out / "model_index.json")
    write_configs(pipe, out)
    write_config(pipe.scheduler, out / "scheduler/scheduler_config.json")
    for name in family.components:
        if name.startswith(("tokenizer", "feature_extractor")) and getattr(pipe, name) is not None:
            # Saved rather than copied: older folders contradict themselves about the padding token.
            getattr(pipe, name).save_pretrained(out / name)
    finish(pipe, family, out, dtype, storage, compiled, say, stage)
    if (scheduler := type(pipe.scheduler).__name__) not in family.schedulers:
        say(
            f"warning: the package's scheduler is {scheduler}, with which the C++ library doesn't run such models (but "
            f"with {', '.join(family.schedulers)}): name one where it is used, --scheduler "
            f"{' or '.join(family.schedulers.values())}"
        )


def load(source, dtype, variant, config, other_family, adapters):
    """What is to be exported, its family, and what writes it. `adapters` are only looked at.

    @throws UsageError, for options that it has no use for too
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    if is_checkpoint(source):
        refuse(f"{source}: a checkpoint", {"--variant": variant, "--as": other_family, **adapters})
        return *load_latent_diffusion(source, config, dtype), write_models
    if is_model_folder(source):
        refuse(f"{source}: a ControlNet", {"--config": config, "--as": other_family, **adapters})
        return *load_controlnet(source, dtype, variant), write_models
    refuse(f"{source}: a pipeline", {"--config": config})
    pipe, family = load_pipeline(source, dtype, variant, PIPELINES, other_family)
    if "text_encoder" not in pipe.components:
        refuse(f"{source}: a {type(pipe).__name__}", adapters)
    return pipe, family, write_package


def refuse(what, options):
    for name, value in options.items():
        if value:
            raise UsageError(f"{what} takes no {name}")


def export(
    source,
    out,
    dtype="float32",
    storage=None,
    variant=None,
    force=False,
    say=print,
    stage=lambda _: None,
    loras=(),
    textual_inversions=(),
    config=None,
    other_family=None,
    compiled=None,
):
    """Exports `source` to the package folder `out`, which appears only when it is whole.

    `say` is told results, `stage` what begins. `loras` and `textual_inversions` are given as on the command line: FILE
    or FILE:SCALE, FILE or FILE:TOKEN. `config` is the YAML file of a checkpoint, if it isn't beside it. `other_family`
    is one of OTHER_FAMILIES, instead of the folder's own. `compiled` are aoti.Options, if the UNet is to be compiled.

    @throws UsageError, CheckError
    """
    source, out, storage = Path(source), Path(out).resolve(), storage or dtype
    check_place(out, force, (source, *(file_of(option) for option in (*loras, *textual_inversions))))
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error}") from error
    try:
        stage(f"loading {source}")
        adapters = {"--lora": loras, "--textual-inversion": textual_inversions}
        pipe, family, write = load(source, DTYPES[dtype], variant, config, other_family, adapters)
        if compiled:
            aoti.check_options(pipe, family, compiled, dtype)
        if any(adapters.values()):
            adapt(pipe, loras, textual_inversions, say)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            write(pipe, family, part, dtype, storage, compiled, say, stage)
        put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def height_and_width(text):
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH, such as 512x512, got {text!r}")
    return tuple(map(int, text.split("x")))


def positive(text):
    if not re.fullmatch(r"[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"must be 1 or above, got {text!r}")
    return int(text)


def compile_options(args):
    """What --backend and the flags that go with it say; None: nothing is compiled. @throws UsageError"""
    if args.backend == "torchscript":
        flags = {"--cache-branch-id": args.cache_branch_id, "--size": args.size, "--batch": args.batch}
        for flag, value in flags.items():
            if value is not None:
                raise UsageError(f"{flag} goes with --backend aoti or both: a traced UNet takes all branches and sizes")
        return None
    return aoti.Options(args.cache_branch_id or 0, args.size, args.batch, keep_torchscript=args.backend == "both")


def quiet():
    """Stops the libraries' own progress bars and messages; what a user can act on comes as an exception."""
    for library in diffusers, transformers:
        library.utils.logging.set_verbosity(logging.CRITICAL)
        library.utils.logging.disable_progress_bar()


def return_freed_memory():
    """Has glibc give freed weights back to the system. It would keep them, as holes that weights of another dtype don't
    fit: a third more memory."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # of other C libraries
            M_MMAP_THRESHOLD = -3
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "pipeline",
        metavar="PIPELINE_DIR",
        help="diffusers pipeline or ControlNet folder with safetensors weights, or a CompVis checkpoint",
    )
    parser.add_argument("out", metavar="OUT_DIR", help="package folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="that the networks run in; default float32")
    parser.add_argument("--storage-dtype", choices=DTYPES, help="of the weights on disk; default: --dtype")
    parser.add_argument("--variant", help="of the weight files, such as fp16 for *.fp16.safetensors")
    parser.add_argument(
        "--lora",
        metavar="FILE[:SCALE]",
        action="append",
        default=[],
        help="safetensors file to fuse into the weights; may be given several times; default scale 1",
    )
    parser.add_argument(
        "--textual-inversion",
        metavar="FILE[:TOKEN]",
        action="append",
        default=[],
        help="embeddings to add to the tokenizer and the text encoder; several times too; default token: the file's",
    )
    parser.add_argument("--config", type=Path, metavar="YAML", help="of a checkpoint; default: the one beside it")
    parser.add_argument(
        "--as",
        choices=OTHER_FAMILIES,
        dest="other_family",
        help="export the folder's parts as another family: a Stable Diffusion as Text2Video-Zero",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="of the UNet: traced, compiled by AOTInductor for this machine's processor, or both; default torchscript",
    )
    parser.add_argument("--cache-branch-id", type=int, metavar="B", help="that is compiled; default 0")
    parser.add_argument(
        "--size", type=height_and_width, metavar="HxW", help="of pictures, in pixels, for which the UNet is compiled"
    )
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="of the compiled UNet; default 2: guidance, 1 picture"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT_DIR if it is a package; its other files stay")
    args = parser.parse_args(arguments)
    quiet()
    return_freed_memory()
    progress = Progress()
    try:
        compiled = compile_options(args)
        export(
            args.pipeline,
            args.out,
            args.dtype,
            args.storage_dtype,
            args.variant,
            args.force,
            progress.say,
            progress.stage,
            args.lora,
            args.textual_inversion,
            args.config,
            args.other_family,
            compiled,
        )
        progress.clear()
    except UsageError as error:
        progress.clear()
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        progress.clear()
        name = "" if isinstance(error, CheckError) else f"{type(error).__name__}: "
        print(f"export.py: {name}{error}\nno package was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what is half done is removed
    sys.exit(main())
