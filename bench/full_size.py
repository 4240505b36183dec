"""The published models' architectures at full size, from their own configs, to be filled with random weights.

For measurements that don't depend on the weights' values: what a step costs, what an export needs.
"""

import diffusers
import transformers

XL = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    use_linear_projection=True,
)
DDPM = dict(
    freq_shift=1,
    flip_sin_to_cos=False,
    downsample_padding=0,
    attention_head_dim=None,
    norm_eps=1e-6,
)
# Where they differ from the defaults of UNet2DConditionModel, which are those of Stable Diffusion 1; of UNet2DModel for
# "ddpm", and of UNetSpatioTemporalConditionModel, which are those of SVD-XT, for "svd".
UNETS = {
    "sd15": dict(sample_size=64, cross_attention_dim=768),
    "sd15_narrow": dict(  # at 0.35 of its width, for quick comparisons
        sample_size=32, block_out_channels=[128, 256, 512, 512], cross_attention_dim=768
    ),
    "sd21": dict(  # 768 x 768 pixels; the base model is the same network at 64 x 64 latents
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=[5, 10, 20, 20],
        use_linear_projection=True,
    ),
    "sdxl": dict(
        sample_size=128,
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        projection_class_embeddings_input_dim=1280 + 6 * 256,
        **XL,
    ),
    "sdxl_refiner": dict(
        sample_size=128,
        block_out_channels=[384, 768, 1536, 1536],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=4,
        attention_head_dim=[6, 12, 24, 24],
        cross_attention_dim=1280,
        projection_class_embeddings_input_dim=1280 + 5 * 256,
        **XL,
    ),
    "svd": dict(sample_size=96, num_frames=14),
    "svd_xt": dict(sample_size=96, num_frames=25),
    "ldm4g": dict(  # of ImageNet, as tools/export.py makes it of cin256-v2.yaml; a class is a prompt of one token
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=[192, 384, 576, 960],
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3,
        up_block_types=["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"],
        attention_head_dim=1,
        cross_attention_dim=512,
    ),
    "ddpm_cifar10": dict(
        sample_size=32,
        block_out_channels=[128, 256, 256, 256],
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        **DDPM,
    ),
    "ddpm_lsun": dict(
        sample_size=256,
        block_out_channels=[128, 128, 256, 256, 512, 512],
        down_block_types=["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
        **DDPM,
    ),
}
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768)
OPEN_CLIP_H = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
)
OPEN_CLIP_G = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
)
OPEN_CLIP_H_VISION = dict(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    hidden_act="gelu",
    projection_dim=1024,
)
TEXT_ENCODERS = {"sd15": [CLIP_L], "sd21": [OPEN_CLIP_H], "sdxl": [CLIP_L, OPEN_CLIP_G]}
VAES = {
    "sd15": dict(sample_size=512, scaling_factor=0.18215),
    "sd21": dict(sample_size=768, scaling_factor=0.18215),
    "sdxl": dict(sample_size=1024, scaling_factor=0.13025),
}
# The parameters of CompVis's cin256-v2.yaml that make the networks, as LatentDiffusion has them.
LDM4G = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 1000,
    "conditioning_key": "crossattn",
    "use_ema": False,
    "unet_config": {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": 64,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 192,
            "attention_resolutions": [8, 4, 2],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 3, 5],
            "num_heads": 1,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 512,
        },
    },
    "first_stage_config": {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {
            "embed_dim": 3,
            "n_embed": 8192,
            "ddconfig": {
                "double_z": False,
                "z_channels": 3,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    },
    "cond_stage_config": {
        "target": "ldm.modules.encoders.modules.ClassEmbedder",
        "params": {"n_classes": 1001, "embed_dim": 512, "key": "class_label"},
    },
}


def make_unet(model):
    kinds = {"ddpm": diffusers.UNet2DModel, "svd": diffusers.UNetSpatioTemporalConditionModel}
    return kinds.get(model.split("_")[0], diffusers.UNet2DConditionModel)(**UNETS[model])


def make_text_encoder(config, tokenizer, projected):
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    tokens = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return cls(transformers.CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **tokens, **config))


def make_image_encoder():
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**OPEN_CLIP_H_VISION))


def make_video_vae():
    return diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
        sample_size=768,
    )


def make_vae(model):
    return diffusers.AutoencoderKL(
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        **VAES[model],
    )
