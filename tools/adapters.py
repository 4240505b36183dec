"""LoRAs and textual inversions, made a part of a loaded pipeline for good: export.py then traces it as any other."""

import math
import pickle
from pathlib import Path

import safetensors
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from families import UsageError, modules

TWO_ENCODERS = {"clip_l": "", "clip_g": "_2"}  # SDXL's files: which key belongs to which tokenizer and text encoder


def split_option(option, what):
    """The file of FILE or FILE:VALUE, and the value or None. Either may have colons in it; the file is there."""
    colons = [i for i, character in enumerate(option) if character == ":"]
    for end in [len(option), *reversed(colons)]:
        if Path(option[:end]).is_file():
            return Path(option[:end]), option[end + 1 :] if end < len(option) else None
    raise UsageError(f"{what} {option}: there is no such file")


def file_of(option):
    """The file of an option that names one, there or not."""
    return next((Path(option[:end]) for end in range(len(option), 0, -1) if Path(option[:end]).is_file()), Path(option))


def fuse_lora(pipe, option):
    """Adds a LoRA, given as FILE or FILE:SCALE, to the weights; returns a line about it. @throws UsageError"""
    file, value = split_option(option, "--lora")
    try:
        scale = 1.0 if value is None else float(value)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(f"--lora {option}: the scale must be a number, such as 0.8, got {value!r}")
    if file.suffix != ".safetensors":
        raise UsageError(f"--lora {option}: only safetensors files are read")
    where = dict(weight_name=file.name, local_files_only=True, use_safetensors=True)
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            if any(key.endswith("dora_scale") for key in tensors.keys()):
                raise ValueError("it is a DoRA, of which diffusers leaves a part out")
        pipe.load_lora_weights(file.parent, adapter_name="lora", **where)
        config = {"unet_config": pipe.unet.config} if hasattr(pipe, "text_encoder_2") else {}
        layers = lora_layers(pipe.lora_state_dict(file.parent, **where, **config)[0])
    except Exception as error:  # the loaders raise whatever a file for something else makes them stumble over
        raise UsageError(f"--lora {file}: it isn't for this pipeline, or no LoRA: {error}") from error
    used = sum(isinstance(module, LoraLayer) for network in modules(pipe) for module in network.modules())
    if not 0 < used == layers:
        raise UsageError(
            f"--lora {file}: it isn't for this pipeline, which has a place for {used} of its {layers} layers"
        )
    pipe.fuse_lora(lora_scale=scale)
    pipe.unload_lora_weights()
    return f"{file.name}: {layers} layers, fused with scale {scale:g}"


def lora_layers(weights):
    """Of how many layers a file has weights, in whichever layout: each has one matrix that leads to the low rank."""
    return sum(key.endswith((".lora_A.weight", ".down.weight", ".lora_down.weight")) for key in weights)


def read_embeddings(file):
    """What is in a file of textual inversion. @throws UsageError if that isn't tensors under names"""
    try:
        # PyTorch's restricted unpickler makes nothing but tensors, containers, strings and numbers.
        safe = file.suffix == ".safetensors"
        weights = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UsageError(f"--textual-inversion {file}: it can't be read: {error}") from error
    if not isinstance(weights, dict) or not weights:
        raise UsageError(
            f"--textual-inversion {file}: there must be embeddings under names, got {type(weights).__name__}"
        )
    return weights


def named_embeddings(pipe, file, token):
    """The token, and the embeddings [n, D] or [D] by the end of their text encoder's name."""
    weights = read_embeddings(file)
    present = [suffix for suffix in ("", "_2") if getattr(pipe, "text_encoder" + suffix, None)]
    if weights.keys() == TWO_ENCODERS.keys():
        if not hasattr(pipe, "text_encoder_2"):
            raise UsageError(f"--textual-inversion {file}: it is SDXL's, and this pipeline has one text encoder")
        name = token
        if token is None:
            raise UsageError(f"--textual-inversion {file}: the file has no name for its token, say FILE:TOKEN")
        found = {suffix: weights[key] for key, suffix in TWO_ENCODERS.items() if suffix in present}
    elif isinstance(weights.get("string_to_param"), dict):  # AUTOMATIC1111's
        name, found = weights.get("name"), {present[0]: weights["string_to_param"].get("*")}
    elif len(weights) == 1:
        name, found = next(iter(weights)), {present[0]: next(iter(weights.values()))}
    else:
        names = ", ".join(sorted(map(str, weights)))
        raise UsageError(f"--textual-inversion {file}: there must be one embedding, got {names}")
    return name if token is None else token, found


def check_embeddings(embeddings, encoder, what):
    width = encoder.config.hidden_size
    tensor = isinstance(embeddings, torch.Tensor)
    shape = list(embeddings.shape) if tensor else type(embeddings).__name__
    if not tensor or len(shape) not in (1, 2) or shape[-1] != width or 0 in shape:
        raise UsageError(f"{what}: the text encoder's embeddings are of width {width}, got {shape}")


def add_textual_inversion(pipe, option):
    """Adds the tokens of a file, given as FILE or FILE:TOKEN; returns a line about it. @throws UsageError

    Embeddings of several vectors become the tokens TOKEN, TOKEN_1, TOKEN_2 ..., as in diffusers.
    """
    file, given = split_option(option, "--textual-inversion")
    token, found = named_embeddings(pipe, file, given)
    if not isinstance(token, str) or not token or token != token.strip():
        raise UsageError(f"--textual-inversion {file}: the token must be a word, got {token!r}")
    for suffix, embeddings in found.items():
        parts = {part: getattr(pipe, part + suffix) for part in ("tokenizer", "text_encoder")}
        check_embeddings(embeddings, parts["text_encoder"], f"--textual-inversion {file}")
        try:
            pipe.load_textual_inversion({token: embeddings.detach()}, token=token, **parts)
        except ValueError as error:  # the token is there already
            raise UsageError(f"--textual-inversion {file}: {error}") from error
    vectors = 1 if embeddings.dim() == 1 else len(embeddings)
    return f"{file.name}: token {token}, {vectors} vector{'s' if vectors > 1 else ''}"


def adapt(pipe, loras=(), textual_inversions=(), say=print):
    """Puts all of them into the pipeline, in their order. @throws UsageError"""
    for option in loras:
        say(fuse_lora(pipe, str(option)))
    for option in textual_inversions:
        say(add_textual_inversion(pipe, str(option)))
    for module in modules(pipe):
        module.eval().requires_grad_(False)
