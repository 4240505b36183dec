"""A small StableVideoDiffusionPipeline for tests: the whole architecture in 1.3 M seeded random parameters.

GroupNorm's 32 groups, which the spatio-temporal blocks fix, are the least number of channels. Weights are rounded to
float16, as tiny_pipelines.py rounds them.
"""

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.resnet import AlphaBlender
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

CHANNELS = 32


def tiny_video_unet(levels=2, **options):
    """Attention in all levels but the deepest one, as in the published one, which has 4."""
    return UNetSpatioTemporalConditionModel(
        **dict(
            sample_size=8,
            num_frames=3,
            block_out_channels=(CHANNELS,) * levels,
            down_block_types=("CrossAttnDownBlockSpatioTemporal",) * (levels - 1) + ("DownBlockSpatioTemporal",),
            up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * (levels - 1),
            num_attention_heads=(2,) * (levels - 1) + (4,),
            cross_attention_dim=24,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=3 * 8,
        )
        | options
    )


def image_encoder(image_size=224):
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=24,
            image_size=image_size,
            patch_size=32,
        )
    )


def scheduler():
    """With the published models' settings."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def telling(pipe):
    """Makes a wrong feature, image or time show in the latents, and the weights exact in float16."""
    unet = pipe.unet
    unet.conv_out.weight.data *= 4
    for block in unet.up_blocks[:-1]:
        block.upsamplers[0].conv.weight.data *= 6
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_out.0"):
            module.weight.data *= 4
    for part in pipe.components.values():
        if not isinstance(part, torch.nn.Module):
            continue
        part.eval().requires_grad_(False)
        for module in part.modules():
            if isinstance(module, AlphaBlender):  # equal in all layers before training
                module.mix_factor.data.uniform_(-1, 1)
        for parameter in part.parameters():
            parameter.data = parameter.data.half().float()


def tiny_video_pipeline(seed=0, dtype=torch.float32, **unet_options):
    """8x8 latents of two pixels a side each, three frames."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableVideoDiffusionPipeline(
            vae=AutoencoderKLTemporalDecoder(
                down_block_types=("DownEncoderBlock2D",) * 2,
                block_out_channels=(CHANNELS,) * 2,
                layers_per_block=2,
                sample_size=16,
            ),
            image_encoder=image_encoder(),
            unet=tiny_video_unet(**unet_options),
            scheduler=scheduler(),
            feature_extractor=CLIPImageProcessor(),
        )
        telling(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)
