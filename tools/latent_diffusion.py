"""What export.py knows of CompVis's class-conditional latent diffusion (LDM-4-G): a checkpoint and its YAML file.

The networks become diffusers' UNet2DConditionModel and the decoder of its VQModel, which compute the same from the same
weights under other names; skip concatenations, and so branches, are those of the original, in its order.
"""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin, UNet2DConditionModel, VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config

from compvis_files import SUFFIXES, read_settings, read_weights
from families import UNET, Family, Network, UsageError, unet_forward, view_of
from loading import FROM_SINGLE_FILE

FAMILY = "class-conditional"
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "class_embedder": "cond_stage_model.",
}


# ---- The configurations of diffusers' classes


def unet_config(params):
    unet = params["unet_config"]
    base, multiples = unet.positive("model_channels"), unet.all_positive("channel_mult")
    channels = [base * multiple for multiple in multiples]
    strides = unet.all_positive("attention_resolutions")
    attentive = [2**level in strides for level in range(len(channels))]
    if (width := unet.values.get("num_head_channels", -1)) == -1:
        heads = [unet.positive("num_heads")] * len(channels)
    else:
        width = unet.positive("num_head_channels")
        heads = [level // width for level in channels]
    for level, number in zip(channels, heads, strict=True):
        if number == 0 or level % number:
            raise UsageError(f"{unet.file}: {level} channels can't be split into heads as {unet.place} asks")
    return dict(
        sample_size=unet.positive("image_size"),
        in_channels=unet.positive("in_channels"),
        out_channels=unet.positive("out_channels"),
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attentive],
        up_block_types=["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attentive)],
        layers_per_block=unet.positive("num_res_blocks"),
        transformer_layers_per_block=unet.positive("transformer_depth", 1),
        cross_attention_dim=unet.positive("context_dim"),
        attention_head_dim=heads,  # the number of heads, as diffusers has it for this class
    )


def vae_config(params):
    first, decoder = params["first_stage_config"], params["first_stage_config.ddconfig"]
    channels = [decoder.positive("ch") * multiple for multiple in decoder.all_positive("ch_mult")]
    return dict(
        in_channels=decoder.positive("in_channels"),
        out_channels=decoder.positive("out_ch"),
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=decoder.positive("num_res_blocks"),
        latent_channels=decoder.positive("z_channels"),
        sample_size=decoder.positive("resolution"),
        num_vq_embeddings=first.positive("n_embed"),
        vq_embed_dim=first.positive("embed_dim"),
        scaling_factor=params[""].number("scale_factor", 1.0),
    )


def check_fit(unet, vae, embedder, file):
    """What the networks give each other must have the same width."""
    for name, values in {
        "unet_config.params.in_channels, unet_config.params.out_channels and first_stage_config.params.embed_dim": (
            unet["in_channels"],
            unet["out_channels"],
            vae["vq_embed_dim"],
        ),
        "unet_config.params.context_dim and cond_stage_config.params.embed_dim": (
            unet["cross_attention_dim"],
            embedder["embed_dim"],
        ),
    }.items():
        if len(set(values)) > 1:
            raise UsageError(f"{file}: {name} must be equal, got {', '.join(map(str, values))}")


# ---- Modules, and the names that their weights have in a checkpoint


class ClassEmbedder(ModelMixin, ConfigMixin):
    """Labels [B] to embeddings [B, 1, D], which the UNet attends to as to a prompt of one token."""

    @register_to_config
    def __init__(self, n_classes: int, embed_dim: int):
        super().__init__()
        self.embedding = torch.nn.Embedding(n_classes, embed_dim)

    def forward(self, class_labels):
        return self.embedding(class_labels[:, None])


class VqDecoder(torch.nn.Module):
    """Latents [B, C, h, w], already divided by the scaling factor, to an image [B, 3, H, W] in about [-1, 1].

    Each pixel is first replaced by the code nearest to it, in float32 and by the original's formula: another's rounding
    would pick another code now and then.
    """

    def __init__(self, vae):
        super().__init__()
        self.codes, self.post_quant_conv, self.decoder = vae.quantize.embedding, vae.post_quant_conv, vae.decoder

    def forward(self, latents):
        pixels, codes = latents.permute(0, 2, 3, 1).float(), self.codes.weight.float()
        flat = pixels.reshape(-1, codes.shape[1])
        distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * (flat @ codes.T)
        nearest = codes[distances.argmin(1)].view(pixels.shape)
        quantized = pixels + (nearest - pixels)  # the original's sum, which rounds
        return self.decoder(self.post_quant_conv(quantized.permute(0, 3, 1, 2).to(latents.dtype)))


UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_names(config):
    """diffusers' names of modules to CompVis's: blocks are counted through all levels there, downsampling ones too."""
    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }
    resnets = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    for level in range(levels):
        for layer in range(layers):
            block = f"input_blocks.{level * (layers + 1) + layer + 1}"
            resnets[f"down_blocks.{level}.resnets.{layer}"] = f"{block}.0"
            names[f"down_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        for layer in range(layers + 1):
            block = f"output_blocks.{level * (layers + 1) + layer}"
            resnets[f"up_blocks.{level}.resnets.{layer}"] = f"{block}.0"
            names[f"up_blocks.{level}.attentions.{layer}"] = f"{block}.1"
        attends = config["up_block_types"][level] == "CrossAttnUpBlock2D"
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"{block}.{2 if attends else 1}.conv"
    for resnet, block in resnets.items():
        names |= {f"{resnet}.{part}": f"{block}.{other}" for part, other in UNET_RESNET.items()}
    return names


def vae_names(config):
    """The same of the decoder."""
    attention, other = "decoder.mid_block.attentions.0", "decoder.mid.attn_1"
    names = {
        "decoder.conv_norm_out": "decoder.norm_out",
        f"{attention}.group_norm": f"{other}.norm",
        f"{attention}.to_out.0": f"{other}.proj_out",
    }
    names |= {f"{attention}.to_{part}": f"{other}.{part}" for part in "qkv"}
    resnets = {f"decoder.mid_block.resnets.{i}": f"decoder.mid.block_{i + 1}" for i in range(2)}
    levels = len(config["block_out_channels"])
    for level in range(levels):
        up = f"decoder.up.{levels - 1 - level}"
        for layer in range(config["layers_per_block"] + 1):
            resnets[f"decoder.up_blocks.{level}.resnets.{layer}"] = f"{up}.block.{layer}"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    for resnet, block in resnets.items():
        names |= {resnet: block, f"{resnet}.conv_shortcut": f"{block}.nin_shortcut"}
    return names


def original_name(key, names):
    """That of a weight: its module's, or that of the nearest module around it which has another there."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (module := ".".join(parts[:end])) in names:
            return ".".join([names[module], *parts[end:]])
    return key


def fill(module, weights, prefix, names, file):
    """Gives a module on the meta device its weights. @throws UsageError naming those that are missing or don't fit."""
    found, missing = {}, []
    for key, empty in module.state_dict().items():
        name = prefix + original_name(key, names)
        if name not in weights:
            missing.append(name)
            continue
        value = weights[name]
        # An attention of the decoder has 1x1 convolutions where diffusers has linear layers.
        found[key] = value.reshape(empty.shape) if value.shape == (*empty.shape, 1, 1) else value
        if found[key].shape != empty.shape:
            raise UsageError(
                f"{file}: {name} has the shape {list(value.shape)}; the configuration asks for {list(empty.shape)}"
            )
    if missing:
        raise UsageError(
            f"{file}: weights are missing that the configuration asks for: {missing[0]}, {len(missing)} in all"
        )
    module.load_state_dict(found, assign=True)
    return {prefix + original_name(key, names) for key in found}


def check_layout(weights, file):
    for prefix in PREFIXES.values():
        if not any(name.startswith(prefix) for name in weights):
            names = ", ".join(sorted(weights)[:3]) or "none"
            raise UsageError(
                f"{file}: no checkpoint of CompVis's class-conditional latent diffusion: no weight's name begins with "
                f"{prefix} (there are {names}, ...)"
            )


# ---- The whole


@dataclass(frozen=True)
class LatentDiffusionSource:
    """What a pipeline is to the exporter."""

    components: dict
    dtype: torch.dtype

    def __getattr__(self, name):
        if name in self.components:
            return self.components[name]
        raise AttributeError(name)


class CompVisDDIMScheduler(ConfigMixin):
    """The settings that the C++ class of that name reads; in diffusers' words, so that its other schedulers can too."""

    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int,
        beta_start: float,
        beta_end: float,
        beta_schedule: str = "scaled_linear",
        prediction_type: str = "epsilon",
        clip_sample: bool = False,
        set_alpha_to_one: bool = False,
        steps_offset: int = 1,
        timestep_spacing: str = "leading",
    ):
        pass


def unet_inputs(source, size):
    config = source.unet.config
    sample = torch.randn(size.batch, config.in_channels, size.height, size.width)
    embeddings = torch.randn(size.batch, 1, config.cross_attention_dim)
    return sample.to(source.dtype), torch.tensor(999.0 / size.batch), embeddings.to(source.dtype)


def latent_inputs(source, size):
    channels = source.vae.config.vq_embed_dim
    return (torch.randn(size.batch, channels, size.height, size.width).to(source.dtype),)


NETWORKS = (
    Network(
        "class_embedder/model.pt",
        lambda source: source.class_embedder,
        lambda source, size: (torch.randint(0, source.class_embedder.config.n_classes, (size.batch,)),),
        lambda source, labels: (source.class_embedder(labels),),
    ),
    Network("unet/model.pt", lambda source: view_of(source.unet, unet_forward), unet_inputs, UNET.reference),
    Network(
        "vae/decoder.pt",
        lambda source: VqDecoder(source.vae),
        latent_inputs,
        lambda source, latents: (VqDecoder(source.vae)(latents),),
    ),
)


def is_checkpoint(source):
    """Whether the path is that of a checkpoint, or of a folder with one that isn't diffusers'."""
    if source.is_dir():
        configured = any((source / name).exists() for name in ("model_index.json", "config.json"))
        return not configured and any(file.suffix in (*SUFFIXES, ".yaml") for file in source.iterdir())
    return source.suffix in SUFFIXES


def only_file(folder, suffixes, what):
    files = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise UsageError(f"{folder}: there must be one {what} ({' or '.join(suffixes)}), got {names}")
    return files[0]


def config_beside(checkpoint):
    if not any(file.suffix == ".yaml" for file in checkpoint.parent.iterdir()):
        raise UsageError(
            f"{checkpoint}: CompVis's class-conditional models need their YAML file, --config; {FROM_SINGLE_FILE}"
        )
    return only_file(checkpoint.parent, (".yaml",), "configuration; else name it, --config")


def load_latent_diffusion(source, config, dtype):
    """The networks of a checkpoint, and their family. @throws UsageError saying what is missing or not supported.

    @param source  the checkpoint, or a folder with one
    @param config  its YAML file; none: the one beside it
    """
    checkpoint = only_file(source, SUFFIXES, "checkpoint") if source.is_dir() else source
    if not checkpoint.is_file():
        raise UsageError(f"no such file: {checkpoint}")
    params = read_settings(config or config_beside(checkpoint))
    top, embedder = params[""], params["cond_stage_config"]
    embedding = dict(n_classes=embedder.positive("n_classes"), embed_dim=embedder.positive("embed_dim"))
    configs = {"unet": unet_config(params), "vae": vae_config(params), "class_embedder": embedding}
    check_fit(configs["unet"], configs["vae"], embedding, top.file)
    scheduler = CompVisDDIMScheduler(top.positive("timesteps"), top.number("linear_start"), top.number("linear_end"))
    try:
        with torch.device("meta"):
            networks = {
                "class_embedder": ClassEmbedder(**embedding),
                "unet": UNet2DConditionModel(**configs["unet"]),
                "vae": VQModel(**configs["vae"]),
            }
    except ValueError as error:  # channels that aren't a multiple of the normalisation's 32 groups
        raise UsageError(f"{top.file}: no such network can be made: {error}") from error
    del networks["vae"].encoder, networks["vae"].quant_conv  # sampling has no use for them
    weights = read_weights(checkpoint)
    check_layout(weights, checkpoint)
    names = {"unet": unet_names(configs["unet"]), "vae": vae_names(configs["vae"]), "class_embedder": {}}
    used = {name: fill(module, weights, PREFIXES[name], names[name], checkpoint) for name, module in networks.items()}
    if further := sorted(w for w in weights if w.startswith(PREFIXES["unet"]) and w not in used["unet"]):
        raise UsageError(f"{checkpoint}: the configuration has no place for {further[0]}")
    for module in networks.values():
        module.to(dtype).eval().requires_grad_(False)
    return LatentDiffusionSource(networks | {"scheduler": scheduler}, dtype), Family(FAMILY, {}, NETWORKS, {})
