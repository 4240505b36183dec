"""Reads the files of CompVis's latent diffusion models: the YAML file of settings, and the checkpoint."""

import pickle

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from loading import UsageError

SUFFIXES = (".ckpt", ".safetensors")
# Settings that change what is computed: what they must be, and what they are if the file doesn't say. By place below
# model.params.
REQUIRED = {
    "": {
        "conditioning_key": ("crossattn", None),
        "parameterization": ("eps", "eps"),
        "beta_schedule": ("linear", "linear"),
        "use_ema": (False, True),  # with averages, the weights to sample with are others
        "scale_by_std": (False, False),
    },
    "unet_config": {
        "use_spatial_transformer": (True, False),
        "conv_resample": (True, True),
        "dims": (2, 2),
        "num_classes": (None, None),
        "use_scale_shift_norm": (False, False),
        "resblock_updown": (False, False),
        "n_embed": (None, None),
    },
    "first_stage_config": {"remap": (None, None)},
    "first_stage_config.ddconfig": {
        "attn_resolutions": ([], []),
        "give_pre_end": (False, False),
        "tanh_out": (False, False),
        "attn_type": ("vanilla", "vanilla"),
        "use_linear_attn": (False, False),
        "resamp_with_conv": (True, True),
    },
}
TARGETS = {
    "": "LatentDiffusion",
    "unet_config": "UNetModel",
    "first_stage_config": "VQModelInterface",
    "cond_stage_config": "ClassEmbedder",
}


# ---- The YAML file


class Settings:
    """One mapping of a YAML file. Every getter throws a UsageError that names the setting."""

    def __init__(self, values, file, place):
        self.values, self.file, self.place = values, file, place
        if not isinstance(values, dict):
            raise UsageError(f"{file}: {place} must be a mapping, got {values!r}")

    def at(self, key):
        if key not in self.values:
            raise UsageError(f"{self.file}: {self.place}.{key} is missing")
        return self.values[key]

    def below(self, key):
        return Settings(self.at(key), self.file, f"{self.place}.{key}")

    def positive(self, key, missing=None):
        value = self.at(key) if missing is None else self.values.get(key, missing)
        if type(value) is not int or value < 1:
            raise UsageError(f"{self.file}: {self.place}.{key} must be a whole number above 0, got {value!r}")
        return value

    def all_positive(self, key):
        value = self.at(key)
        if not isinstance(value, list) or not value or any(type(v) is not int or v < 1 for v in value):
            raise UsageError(f"{self.file}: {self.place}.{key} must be a list of whole numbers above 0, got {value!r}")
        return value

    def number(self, key, missing=None):
        value = self.at(key) if missing is None else self.values.get(key, missing)
        if type(value) not in (int, float) or not value > 0:
            raise UsageError(f"{self.file}: {self.place}.{key} must be a number above 0, got {value!r}")
        return value

    def require(self, key, allowed, missing):
        value = self.values.get(key, missing)
        if type(value) is not type(allowed) or value != allowed:
            raise UsageError(f"{self.file}: {self.place}.{key} must be {allowed!r}, got {value!r}")

    def require_target(self, name):
        target = self.at("target")
        if str(target).rsplit(".", 1)[-1] != name:
            raise UsageError(f"{self.file}: {self.place}.target must be a {name}, got {target!r}")


def read_settings(file):
    """`model.params` of a YAML file by place: "", "unet_config", ...; all checked for what isn't supported."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: no YAML file that can be read: {error}") from error
    model = Settings(content, file, "the file").below("model")
    params = {"": model.below("params")}
    model.require_target(TARGETS[""])
    for place in list(TARGETS)[1:]:
        configured = params[""].below(place)
        configured.require_target(TARGETS[place])
        params[place] = configured.below("params")
    params["first_stage_config.ddconfig"] = params["first_stage_config"].below("ddconfig")
    for place, settings in REQUIRED.items():
        for key, (allowed, missing) in settings.items():
            params[place].require(key, allowed, missing)
    return params


# ---- The checkpoint


class _Unread:
    """What stands in a checkpoint beside its weights, for a class that isn't loaded."""


def read_weights(file):
    """The tensors of a checkpoint by name. No code in it is run."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # The one class that checkpoints of PyTorch Lightning name in their records of the training.
        known = (_Unread, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
        with torch.serialization.safe_globals([known]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"{file}: it holds more than tensors, numbers and text, which isn't loaded, as it could run code: "
            + next((line.strip() for line in reason if "GLOBAL" in line or "Unsupported" in line), reason[0])
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise UsageError(f"{file}: no checkpoint that can be read: {error}") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise UsageError(f"{file}: it holds no state_dict")
    return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
