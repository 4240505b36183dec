"""What export.py knows of pipeline classes: which networks each has, how they are called, how a folder is loaded.

A new family is an entry in FAMILIES and, where a network's arguments differ, another Network with its own functions.
"""

import copy
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass

import diffusers
import torch


class UsageError(Exception):
    """The caller's mistake: exit code 2."""


@dataclass(frozen=True)
class Size:
    """The free dimensions of an example input: batch, latent height and width, prompt length in tokens."""

    batch: int
    height: int
    width: int
    length: int


@dataclass(frozen=True)
class Network:
    file: str  # in the package, in its component's folder
    module: Callable  # pipeline -> what is traced: a module of positional tensors with one tensor as its output
    inputs: Callable  # pipeline, Size -> random inputs for it
    reference: Callable  # pipeline, *inputs -> what the pipeline itself computes from them
    stand_in: Callable | None = (
        None  # pipeline, exported network -> (object, attribute, value) to run the pipeline on it
    )


@dataclass(frozen=True)
class Family:
    name: str
    components: dict[str, tuple[str, ...]]  # which the pipeline folder must have, and the classes that will do
    networks: tuple[Network, ...]


def view_of(module, make_forward):
    """The same module (weights, submodule names) with another forward.

    A wrapping module would do as well, but prefix each submodule's name in the trace.
    """
    view = copy.copy(module)
    view.forward = make_forward(functools.partial(type(module).forward, view))
    return view


def unet_forward(original):
    return lambda sample, timestep, encoder_hidden_states: original(
        sample, timestep, encoder_hidden_states, return_dict=False
    )[0]


def text_forward(original):
    return lambda input_ids: original(input_ids)[0]


class VaeDecoder(torch.nn.Module):
    """Latents [B, 4, h, w], already divided by the scaling factor, to an image [B, 3, H, W] in about [-1, 1]."""

    def __init__(self, vae):
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv or torch.nn.Identity()
        self.decoder = vae.decoder

    def forward(self, latents):
        return self.decoder(self.post_quant_conv(latents))


class VaeEncoder(torch.nn.Module):
    """Image [B, 3, H, W] in [-1, 1] to moments [B, 8, h, w]: mean, then log-variance (to be clamped to [-30, 20])."""

    def __init__(self, vae):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv or torch.nn.Identity()

    def forward(self, image):
        return self.quant_conv(self.encoder(image))


def text_inputs(pipe, size):
    return (torch.randint(0, pipe.text_encoder.config.vocab_size, (size.batch, size.length)),)


def unet_inputs(pipe, size):
    # A trace with a float32 timestep takes int64 ones too; the other way round, it would cut their fraction off.
    shapes = (
        (size.batch, pipe.unet.config.in_channels, size.height, size.width),
        (size.batch, size.length, pipe.text_encoder.config.hidden_size),
    )
    sample, embeddings = (torch.randn(shape).to(pipe.dtype) for shape in shapes)
    return sample, torch.tensor(999.0 / size.batch), embeddings


def latent_inputs(pipe, size):
    return (torch.randn(size.batch, pipe.vae.config.latent_channels, size.height, size.width).to(pipe.dtype),)


def image_inputs(pipe, size):
    height, width = size.height * pipe.vae_scale_factor, size.width * pipe.vae_scale_factor
    return ((torch.rand(size.batch, pipe.vae.config.in_channels, height, width) * 2 - 1).to(pipe.dtype),)


TEXT_ENCODER = Network(
    "text_encoder/model.pt",
    lambda pipe: view_of(pipe.text_encoder, text_forward),
    text_inputs,
    lambda pipe, input_ids: pipe.text_encoder(input_ids).last_hidden_state,
    lambda pipe, exported: (pipe.text_encoder, "forward", lambda input_ids, **_: (exported(input_ids),)),
)
UNET = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unet_forward),
    unet_inputs,
    lambda pipe, sample, timestep, embeddings: pipe.unet(sample, timestep, encoder_hidden_states=embeddings).sample,
    lambda pipe, exported: (
        pipe.unet,
        "forward",
        lambda sample, timestep, encoder_hidden_states, **_: (exported(sample, timestep, encoder_hidden_states),),
    ),
)
VAE_DECODER = Network(
    "vae/decoder.pt",
    lambda pipe: VaeDecoder(pipe.vae),
    latent_inputs,
    lambda pipe, latents: pipe.vae.decode(latents).sample,
    lambda pipe, exported: (pipe.vae, "decode", lambda latents, **_: (exported(latents),)),
)
VAE_ENCODER = Network(
    "vae/encoder.pt",
    lambda pipe: VaeEncoder(pipe.vae),
    image_inputs,
    lambda pipe, image: pipe.vae.encode(image).latent_dist.parameters,
)

FAMILIES = {
    "StableDiffusionPipeline": Family(
        name="stable-diffusion",
        components={
            "scheduler": (),
            "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
            "text_encoder": ("CLIPTextModel",),
            "unet": ("UNet2DConditionModel",),
            "vae": ("AutoencoderKL",),
        },
        networks=(TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER),
    ),
}
# The schedulers of the C++ library (kClasses in src/schedulers/scheduler.cpp), with its short names for them.
SCHEDULERS = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "plms",
    "DDPMScheduler": "ddpm",
    "LCMScheduler": "lcm",
    "DPMSolverMultistepScheduler": "dpm++_2m",
    "UniPCMultistepScheduler": "unipc",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
}
# Settings that give a network further inputs, which this family's pipeline and its package don't have.
UNSUPPORTED = {
    "unet": (
        "class_embed_type",
        "num_class_embeds",
        "addition_embed_type",
        "encoder_hid_dim_type",
        "time_cond_proj_dim",
    ),
    "text_encoder": ("use_attention_mask",),
}


def modules(pipe):
    return [component for component in pipe.components.values() if isinstance(component, torch.nn.Module)]


def load_pipeline(folder, dtype, variant=None):
    """The pipeline of a local folder, and its family. @throws UsageError saying what is missing or not known."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UsageError(f"{folder}: no diffusers pipeline folder, model_index.json is missing")
    try:
        components = json.loads(index.read_text())
        name = components["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{index}: no _class_name can be read ({error})") from error
    if name not in FAMILIES:
        raise UsageError(f"{index}: pipeline class {name} isn't known; known: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    for component, allowed in family.components.items():
        got = (components.get(component) or [None, None])[1]
        if got is None or not (folder / component).is_dir():
            raise UsageError(f"{folder}: component {component} is missing; {name} needs {', '.join(family.components)}")
        if allowed and got not in allowed:
            raise UsageError(f"{index}: {component} is a {got}; supported: {', '.join(allowed)}")
    try:
        pipe = getattr(diffusers, name).from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UsageError(f"{folder}: diffusers can't load it: {error}") from error
    for component, settings in UNSUPPORTED.items():
        for setting in settings:
            if getattr(getattr(pipe, component).config, setting, None):
                raise UsageError(f"{folder}/{component}/config.json: {setting} isn't supported in a {name}")
    for module in modules(pipe):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe, family
