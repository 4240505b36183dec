"""What is wrong with a folder that is to be exported, said before diffusers stumbles over it."""

import json

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")  # which diffusers' DDIM and this library know
NO_LIMIT, CLIP_LENGTH = 1e20, 77  # transformers' "unlimited" is above the one; the library reads it as the other

FROM_SINGLE_FILE = (
    "a Stable Diffusion in one file becomes a folder in Python, by "
    'StableDiffusionPipeline.from_single_file(FILE).save_pretrained("FOLDER")'
)


class UsageError(Exception):
    """The caller's mistake: exit code 2."""


def said(error):
    """What an exception says, which may be nothing but its type."""
    return str(error).strip() or type(error).__name__


def read_index(folder):
    """The folder's model_index.json, what is in it, and the pipeline's class. @throws UsageError"""
    index = folder / "model_index.json"
    if folder.is_file():
        raise UsageError(f"{folder}: a file is no diffusers pipeline folder; {FROM_SINGLE_FILE}")
    if not index.is_file():
        raise UsageError(f"{folder}: no diffusers pipeline folder, model_index.json is missing")
    try:
        components = json.loads(index.read_text())
        return index, components, str(components["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{index}: no _class_name can be read ({error})") from error


def unknown_class(index, name, known):
    """The error for a pipeline class that isn't among those known."""
    controlnet = (
        f"; a ControlNet is exported on its own, from {index.parent / 'controlnet'}, and the other parts as a pipeline "
        "without it"
    )
    return UsageError(
        f"{index}: pipeline class {name} isn't known{controlnet * ('ControlNet' in name)}; known: {', '.join(known)}"
    )


def component_class(index, components, component):
    """The class that model_index.json names for a component, or None. @throws UsageError"""
    entry = components.get(component) or [None, None]
    if not isinstance(entry, list) or len(entry) != 2 or not all(part is None or type(part) is str for part in entry):
        raise UsageError(f"{index}: {component} must be a library and a class, got {entry!r}")
    return entry[1]


def check_files(folder, component, class_name):
    """That a slow tokenizer's vocabulary is there: without it, transformers tries formats of other tokenizers."""
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / component / name).is_file()]
    if class_name == "CLIPTokenizer" and missing:
        raise UsageError(f"{folder / component}: {' and '.join(missing)} missing; a {class_name} is read from them")


def check_settings(pipe, folder, unsupported):
    """That none is set of those settings of components that must not be, and that the others go together."""
    for component, settings in unsupported.items():
        for setting in settings:
            if getattr(getattr(pipe, component).config, setting, None):
                name = type(pipe).__name__
                raise UsageError(f"{folder}/{component}/config.json: {setting} isn't supported in a {name}")
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise UsageError(
            f"{folder}/scheduler/scheduler_config.json: prediction_type must be one of {', '.join(PREDICTION_TYPES)}; "
            f"got {prediction!r}"
        )
    for suffix in "", "_2":
        tokenizer, encoder = (getattr(pipe, part + suffix, None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is not None and encoder is not None:
            check_length(tokenizer, encoder.config.max_position_embeddings, f"{folder}/tokenizer{suffix}")


def check_length(tokenizer, positions, where):
    """That the text encoder takes as many tokens as the tokenizer gives, which gets a limit if it has none."""
    if tokenizer.model_max_length > NO_LIMIT:
        tokenizer.model_max_length = CLIP_LENGTH
    if not 2 <= tokenizer.model_max_length <= positions:
        raise UsageError(
            f"{where}: model_max_length must be from 2 to the text encoder's max_position_embeddings, {positions}; "
            f"got {tokenizer.model_max_length}"
        )


def check_channels(pipe, folder, masked):
    """That the UNet takes latents, or where there is a mask, that and the masked picture's latents too."""
    latents, channels = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    allowed = [latents, 2 * latents + 1][: 1 + masked]
    if channels not in allowed:
        raise UsageError(
            f"{folder}/unet/config.json: in_channels of a {type(pipe).__name__} must be "
            f"{' or '.join(map(str, allowed))}; got {channels}"
        )


def from_pretrained(cls, folder, dtype, variant, **options):
    """What diffusers makes of a local folder. @throws UsageError with its reason, if it can't load it"""
    try:
        return cls.from_pretrained(
            folder, torch_dtype=dtype, variant=variant, local_files_only=True, use_safetensors=True, **options
        )
    except Exception as error:  # whatever a damaged or incomplete folder makes the loaders stumble over
        raise UsageError(f"{folder}: diffusers can't load it: {said(error)}") from error
