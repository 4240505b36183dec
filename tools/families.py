"""What export.py knows of pipeline classes: which networks each has, how they are called, how a folder is loaded.

A new family is an entry in FAMILIES and, where a network's arguments differ, another Network with its own functions.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPTextModelOutput

import loading
from loading import UsageError


@dataclass(frozen=True)
class Size:
    """The free dimensions of an example input: batch, latent height and width, prompt length in tokens, and a video's
    frames."""

    batch: int
    height: int
    width: int
    length: int
    frames: int = 1


@dataclass(frozen=True)
class Network:
    file: str  # in the package, in its component's folder
    module: Callable  # pipeline -> what is traced: a module of positional tensors
    inputs: Callable  # pipeline, Size -> random inputs for it
    reference: Callable  # pipeline, *inputs -> the tensors that the pipeline itself computes from them
    outputs: Callable = lambda output: (output,)  # output of the exported network -> the same tensors
    # pipeline, exported network -> (object, attribute, value) to run the pipeline on it
    stand_in: Callable | None = None
    dtype: Callable = lambda pipe: pipe.dtype  # pipeline -> what the network runs in


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
    "CompVisDDIMScheduler": "compvis_ddim",
}


@dataclass(frozen=True)
class Family:
    name: str
    components: dict[str, tuple[str, ...]]  # which the pipeline folder must have, and the classes that will do
    optional: tuple[str, ...] = field(kw_only=True, default=())  # of the components
    pictures: tuple[str, ...] = field(kw_only=True, default=())  # that its pipeline must be given, by argument names
    # pipeline, number of steps -> tensors by name, of a short run, the last one a picture; none: export.py's own
    sample: Callable | None = field(kw_only=True, default=None)
    arguments: dict = field(kw_only=True, default_factory=dict)  # further ones of export.py's own run
    schedulers: dict[str, str] = field(kw_only=True, default_factory=lambda: SCHEDULERS)  # that can run it
    top_level: bool = field(kw_only=True, default=False)  # whether components may lie in the pipeline's own folder
    networks: tuple[Network, ...]  # those of a component that the pipeline lacks are left out
    unsupported: dict[str, tuple[str, ...]]  # settings of a component that must not be set


def view_of(module, make_forward):
    """The same module (weights, submodule names) with another forward, whose arguments name the network's inputs.

    A wrapping module would do as well, but prefix each submodule's name in the trace.
    """
    view = copy.copy(module)
    view.forward = make_forward(view, functools.partial(type(module).forward, view))
    return view


def unet_forward(_, original):
    return lambda sample, timestep, encoder_hidden_states: original(
        sample, timestep, encoder_hidden_states, return_dict=False
    )[0]


def unet_xl_forward(_, original):
    return lambda sample, timestep, encoder_hidden_states, text_embeds, time_ids: original(
        sample,
        timestep,
        encoder_hidden_states,
        added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
        return_dict=False,
    )[0]


def normalized_states(view, original):
    """Hidden states [layers + 1, B, L, D], each through the last layer norm, as clip_skip reads them; pooled [B, D]."""

    def forward(input_ids):
        output = original(input_ids, output_hidden_states=True)
        return torch.stack([view.text_model.final_layer_norm(state) for state in output.hidden_states]), pooled(output)

    return forward


def raw_states(_, original):
    """Hidden states [layers + 1, B, L, D] as they are, which SDXL reads; pooled (projected, if it is), [B, P]."""

    def forward(input_ids):
        output = original(input_ids, output_hidden_states=True)
        return torch.stack(output.hidden_states), pooled(output)

    return forward


def pooled(output):
    return output.text_embeds if "text_embeds" in output else output.pooler_output


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


def text_inputs(encoder):
    return lambda pipe, size: (torch.randint(0, getattr(pipe, encoder).config.vocab_size, (size.batch, size.length)),)


def denoiser_inputs(config, dtype, size):
    # A trace with a float32 timestep takes int64 ones too; the other way round, it would cut their fraction off.
    shapes = (
        (size.batch, config.in_channels, size.height, size.width),
        (size.batch, size.length, config.cross_attention_dim),
    )
    sample, embeddings = (torch.randn(shape).to(dtype) for shape in shapes)
    return sample, torch.tensor(999.0 / size.batch), embeddings


def unet_inputs(pipe, size):
    return denoiser_inputs(pipe.unet.config, pipe.dtype, size)


def unet_xl_inputs(pipe, size):
    config, projection = pipe.unet.config, pipe.text_encoder_2.config.projection_dim
    ids = (config.projection_class_embeddings_input_dim - projection) // config.addition_time_embed_dim
    time_ids = torch.randint(0, 1024, (size.batch, ids)).to(pipe.dtype)
    return *unet_inputs(pipe, size), torch.randn(size.batch, projection).to(pipe.dtype), time_ids


def latent_inputs(pipe, size, dtype):
    return (torch.randn(size.batch, pipe.vae.config.latent_channels, size.height, size.width).to(dtype),)


def image_inputs(pipe, size, dtype):
    height, width = size.height * pipe.vae_scale_factor, size.width * pipe.vae_scale_factor
    return ((torch.rand(size.batch, pipe.vae.config.in_channels, height, width) * 2 - 1).to(dtype),)


def exported_text_encoder(pipe, exported):
    """What StableDiffusionPipeline asks of its text encoder, from the exported one."""
    return pipe.text_encoder, "forward", lambda input_ids, **_: (exported(input_ids)[0][-1],)


def exported_text_encoder_xl(encoder):
    """The same for the text encoders of SDXL: the pipeline reads the last but one hidden state, and output 0 if it is
    pooled."""

    def stand_in(pipe, exported):
        def forward(input_ids, **_):
            states, text_embeds = exported(input_ids)
            if encoder == "text_encoder_2":
                return CLIPTextModelOutput(text_embeds=text_embeds, hidden_states=tuple(states))
            return BaseModelOutputWithPooling(last_hidden_state=states[-1], hidden_states=tuple(states))

        return getattr(pipe, encoder), "forward", forward

    return stand_in


def text_encoder_xl(encoder):
    def reference(pipe, input_ids):
        output = getattr(pipe, encoder)(input_ids, output_hidden_states=True)
        return *output.hidden_states, pooled(output)

    return Network(
        f"{encoder}/model.pt",
        lambda pipe: view_of(getattr(pipe, encoder), raw_states),
        text_inputs(encoder),
        reference,
        states_and_pooled,
        exported_text_encoder_xl(encoder),
    )


def text_encoder_states(pipe, input_ids):
    """As StableDiffusionPipeline makes its embeddings from the state that clip_skip names."""
    output, norm = (
        pipe.text_encoder(input_ids, output_hidden_states=True),
        pipe.text_encoder.text_model.final_layer_norm,
    )
    return *(norm(state) for state in output.hidden_states), pooled(output)


def states_and_pooled(output):
    """Each state apart: they are of different sizes, and the largest value is what differences are measured by."""
    return *output[0], output[1]


TEXT_ENCODER = Network(
    "text_encoder/model.pt",
    lambda pipe: view_of(pipe.text_encoder, normalized_states),
    text_inputs("text_encoder"),
    text_encoder_states,
    states_and_pooled,
    exported_text_encoder,
)
UNET = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unet_forward),
    unet_inputs,
    lambda pipe, sample, timestep, embeddings: (pipe.unet(sample, timestep, encoder_hidden_states=embeddings).sample,),
    stand_in=lambda pipe, exported: (
        pipe.unet,
        "forward",
        lambda sample, timestep, encoder_hidden_states, **_: (exported(sample, timestep, encoder_hidden_states),),
    ),
)
UNET_XL = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unet_xl_forward),
    unet_xl_inputs,
    lambda pipe, sample, timestep, embeddings, text_embeds, time_ids: (
        pipe.unet(
            sample,
            timestep,
            encoder_hidden_states=embeddings,
            added_cond_kwargs={"text_embeds": text_embeds, "time_ids": time_ids},
        ).sample,
    ),
    stand_in=lambda pipe, exported: (
        pipe.unet,
        "forward",
        lambda sample, timestep, encoder_hidden_states, added_cond_kwargs, **_: (
            exported(
                sample, timestep, encoder_hidden_states, *(added_cond_kwargs[n] for n in ("text_embeds", "time_ids"))
            ),
        ),
    ),
)


def vae_in(pipe, dtype):
    """The pipeline's VAE, or a copy in another dtype."""
    return pipe.vae if pipe.vae.dtype == dtype else copy.deepcopy(pipe.vae).to(dtype)


def vae_networks(decoder_dtype, encoder_dtype):
    """Decoder and encoder, whose dtypes are functions of the pipeline."""
    return (
        Network(
            "vae/decoder.pt",
            lambda pipe: VaeDecoder(vae_in(pipe, decoder_dtype(pipe))),
            lambda pipe, size: latent_inputs(pipe, size, decoder_dtype(pipe)),
            lambda pipe, latents: (vae_in(pipe, decoder_dtype(pipe)).decode(latents).sample,),
            stand_in=lambda pipe, exported: (pipe.vae, "decode", lambda latents, **_: (exported(latents),)),
            dtype=decoder_dtype,
        ),
        Network(
            "vae/encoder.pt",
            lambda pipe: VaeEncoder(vae_in(pipe, encoder_dtype(pipe))),
            lambda pipe, size: image_inputs(pipe, size, encoder_dtype(pipe)),
            lambda pipe, image: (vae_in(pipe, encoder_dtype(pipe)).encode(image).latent_dist.parameters,),
            stand_in=lambda pipe, exported: (
                pipe.vae,
                "encode",
                lambda image, **_: AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(exported(image))),
            ),
            dtype=encoder_dtype,
        ),
    )


def upcast_from(*dtypes):
    """float32 where SDXL's pipelines take their VAE out of one of these, because it overflows in float16."""
    return lambda pipe: torch.float32 if pipe.vae.config.force_upcast and pipe.dtype in dtypes else pipe.dtype


VAE = vae_networks(lambda pipe: pipe.dtype, lambda pipe: pipe.dtype)
VAE_XL = vae_networks(upcast_from(torch.float16), upcast_from(torch.float16, torch.bfloat16))

TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
# Settings that give a network further inputs, which the family's pipeline and its package don't have.
FURTHER_INPUTS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")

STABLE_DIFFUSION = Family(
    name="stable-diffusion",
    components={
        "scheduler": (),
        "tokenizer": TOKENIZER,
        "text_encoder": ("CLIPTextModel",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
    },
    networks=(TEXT_ENCODER, UNET, *VAE),
    unsupported={"unet": (*FURTHER_INPUTS, "addition_embed_type"), "text_encoder": ("use_attention_mask",)},
)
STABLE_DIFFUSION_XL = Family(
    name="stable-diffusion-xl",
    components={
        "scheduler": (),
        "tokenizer": TOKENIZER,
        "tokenizer_2": TOKENIZER,
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
    },
    networks=(text_encoder_xl("text_encoder"), text_encoder_xl("text_encoder_2"), UNET_XL, *VAE_XL),
    unsupported={"unet": FURTHER_INPUTS, "vae": ("latents_mean", "latents_std")},
)
IMAGE, IMAGE_AND_MASK = dict(pictures=("image",)), dict(pictures=("image", "mask_image"))
FAMILIES = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": replace(STABLE_DIFFUSION, **IMAGE),
    "StableDiffusionInpaintPipeline": replace(STABLE_DIFFUSION, **IMAGE_AND_MASK),
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    # The refiner's class, which lacks the first text encoder.
    "StableDiffusionXLImg2ImgPipeline": replace(STABLE_DIFFUSION_XL, optional=("tokenizer", "text_encoder"), **IMAGE),
    "StableDiffusionXLInpaintPipeline": replace(STABLE_DIFFUSION_XL, **IMAGE_AND_MASK),
}
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # of families that don't name them
# What a folder can be exported as: the class of that family, and those whose folders hold all that it takes.
OTHER_FAMILIES = {
    "text-to-video-zero": (
        "TextToVideoZeroPipeline",
        ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "TextToVideoZeroPipeline"),
    )
}


def modules(pipe):
    return [component for component in pipe.components.values() if isinstance(component, torch.nn.Module)]


def load_pipeline(folder, dtype, variant=None, families=FAMILIES, other_family=None):
    """The pipeline of a local folder, or the one of another family from its parts, and its family.

    @throws UsageError saying what is missing or not known.
    """
    index, components, name = loading.read_index(folder)
    if other_family:
        of_folder, (name, classes) = name, OTHER_FAMILIES[other_family]
        if of_folder not in classes:
            raise UsageError(f"{index}: a {of_folder} can't be exported as {other_family}; can: {', '.join(classes)}")
    if name not in families:
        raise loading.unknown_class(index, name, families)
    family = families[name]
    for component, allowed in family.components.items():
        got = loading.component_class(index, components, component)
        if got is None and component in family.optional:
            continue
        if got is None or not (family.top_level or (folder / component).is_dir()):
            raise UsageError(f"{folder}: component {component} is missing; {name} needs {', '.join(family.components)}")
        if allowed and got not in allowed:
            raise UsageError(f"{index}: {component} is a {got}; supported: {', '.join(allowed)}")
        loading.check_files(folder, component, got)
    pipe = loading.from_pretrained(
        getattr(diffusers, name),
        folder,
        dtype,
        variant,
        requires_safety_checker=False,
        **{part: None for part in LEFT_OUT if part not in family.components},
    )
    loading.check_settings(pipe, folder, family.unsupported)
    if not family.sample:  # it is a Stable Diffusion
        loading.check_channels(pipe, folder, masked="mask_image" in family.pictures)
    for module in modules(pipe):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    present = tuple(n for n in family.networks if getattr(pipe, n.file.split("/")[0]) is not None)
    return pipe, replace(family, networks=present)
