"""What export.py knows of ControlNets: how a folder of one is loaded, and how the network is called."""

import json
from dataclasses import dataclass

import torch
from diffusers import ControlNetModel

from families import FURTHER_INPUTS, Family, Network, UsageError, denoiser_inputs, view_of
from loading import from_pretrained

# Settings that change what a ControlNet is given or what becomes of its residuals.
UNSUPPORTED = (*FURTHER_INPUTS, "global_pool_conditions")


@dataclass(frozen=True)
class ControlNetSource:
    """What a pipeline is to the exporter, for a ControlNet."""

    controlnet: ControlNetModel

    @property
    def components(self):
        return {"controlnet": self.controlnet}

    @property
    def dtype(self):
        return self.controlnet.dtype


def controlnet_forward(_, original):
    return lambda sample, timestep, encoder_hidden_states, controlnet_cond: residuals(
        original(sample, timestep, encoder_hidden_states, controlnet_cond, 1.0, return_dict=False)
    )


def controlnet_xl_forward(_, original):
    return lambda sample, timestep, encoder_hidden_states, controlnet_cond, text_embeds, time_ids: residuals(
        original(
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond,
            1.0,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
            return_dict=False,
        )
    )


def residuals(output):
    """Those of the skip connections, from the first to the last, then the middle one."""
    down, middle = output
    return *down, middle


def control_image(config, size):
    """One pixel of the latents for each time that the embedding halves the image."""
    factor = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    return torch.rand(size.batch, config.conditioning_channels, size.height * factor, size.width * factor)


def controlnet_inputs(source, size):
    config = source.controlnet.config
    inputs = denoiser_inputs(config, source.dtype, size)
    return *inputs, control_image(config, size).to(source.dtype)


def controlnet_xl_inputs(source, size):
    config = source.controlnet.config
    # Six numbers beside the pooled embedding; a trace doesn't ask which is which.
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    time_ids = torch.randint(0, 1024, (size.batch, 6)).to(source.dtype)
    return *controlnet_inputs(source, size), torch.randn(size.batch, pooled).to(source.dtype), time_ids


CONTROLNET = Network(
    "controlnet/model.pt",
    lambda source: view_of(source.controlnet, controlnet_forward),
    controlnet_inputs,
    lambda source, *inputs: residuals(source.controlnet(*inputs, conditioning_scale=1.0, return_dict=False)),
    lambda output: output,
)
CONTROLNET_XL = Network(
    "controlnet/model.pt",
    lambda source: view_of(source.controlnet, controlnet_xl_forward),
    controlnet_xl_inputs,
    lambda source, *inputs: residuals(
        source.controlnet(
            *inputs[:4],
            conditioning_scale=1.0,
            added_cond_kwargs=dict(zip(("text_embeds", "time_ids"), inputs[4:], strict=True)),
            return_dict=False,
        )
    ),
    lambda output: output,
)
# By addition_embed_type.
NETWORKS = {None: CONTROLNET, "text_time": CONTROLNET_XL}


def is_model_folder(folder):
    """Of a single diffusers model, not of a pipeline."""
    return (folder / "config.json").is_file() and not (folder / "model_index.json").exists()


def load_controlnet(folder, dtype, variant=None):
    """The ControlNet of a local folder, and its family. @throws UsageError saying what is missing or not supported."""
    file = folder / "config.json"
    try:
        name = json.loads(file.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: no _class_name can be read ({error})") from error
    if name != "ControlNetModel":
        raise UsageError(f"{file}: class {name} isn't known; of models on their own, ControlNetModel is")
    controlnet = from_pretrained(ControlNetModel, folder, dtype, variant)
    for setting in UNSUPPORTED:
        if getattr(controlnet.config, setting, None):
            raise UsageError(f"{file}: {setting} isn't supported in a ControlNet")
    if (kind := controlnet.config.addition_embed_type) not in NETWORKS:
        raise UsageError(f'{file}: addition_embed_type must be null or "text_time" (SDXL), not "{kind}"')
    controlnet.eval().requires_grad_(False)
    return ControlNetSource(controlnet), Family("controlnet", {}, (NETWORKS[kind],), {})
