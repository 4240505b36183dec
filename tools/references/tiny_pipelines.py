"""Small diffusers pipelines for tests: the whole architectures in some 0.5 M seeded random parameters.

Their pictures are noise; what matters is that every part is there and that each branch of the UNet changes the result.
The weights are rounded to float16, so that a package may store them in half the bytes and still be exact.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models/emoji/tokenizer"
SD_UNET = dict(
    block_out_channels=(8, 16, 16, 16),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
XL_UNET = dict(
    block_out_channels=(8, 16, 16),
    down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    transformer_layers_per_block=(1, 1, 2),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    cross_attention_dim=32 + 48,
    projection_class_embeddings_input_dim=40 + 6 * 8,
)
SMALL_UNET = dict(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)

# What a variant changes: the pipeline's class and arguments; in the UNet's config, the text encoder's, the
# scheduler's, the tokenizer's; what it runs in.
VARIANTS = {
    "sd1": {},
    "sd2": dict(
        unet=dict(use_linear_projection=True, attention_head_dim=(2, 4, 4, 4)),
        text=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, hidden_act="gelu"),
        scheduler=dict(prediction_type="v_prediction"),
        tokenizer=dict(pad_token="!"),
    ),
    "one_layer": dict(unet=dict(layers_per_block=1)),
    "three_layers": dict(unet=dict(layers_per_block=3)),
    "sd1_bfloat16": dict(dtype=torch.bfloat16),
    "sdxl": {},
    "sd1_inpaint": dict(pipeline=StableDiffusionInpaintPipeline, unet=dict(in_channels=9)),
    "sdxl_inpaint": dict(pipeline=StableDiffusionXLInpaintPipeline, unet=dict(in_channels=9)),
    "sdxl_refiner": dict(
        pipeline=StableDiffusionXLImg2ImgPipeline,
        arguments=dict(
            tokenizer=None, text_encoder=None, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
        ),
        unet=dict(cross_attention_dim=48, projection_class_embeddings_input_dim=40 + 5 * 8),
    ),
    "lora": dict(unet=SMALL_UNET),
    "textual_inversion": dict(unet=SMALL_UNET, tokenizer=dict(pad_token="!")),
    "sdxl_float16": dict(dtype=torch.float16),
}
# As sd2, but predicting noise, as the base models do. It is last, as TorchScript's counter of classes is in the files.
VARIANTS["sd2_base"] = VARIANTS["sd2"] | dict(scheduler=dict(prediction_type="epsilon"))


def text_encoder(cls, tokenizer, **options):
    return cls(
        CLIPTextConfig(
            **dict(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                projection_dim=32,
                hidden_act="quick_gelu",
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            | options
        )
    )


def tiny_unet(**options):
    return UNet2DConditionModel(**dict(sample_size=16, norm_num_groups=8, attention_head_dim=4) | options)


def tiny_vae():
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
        scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def telling(pipe):
    """Makes a wrong feature or prompt show in the latents, and the weights exact in float16."""
    unet = pipe.unet
    unet.conv_out.weight.data *= 4  # an output as large as noise, deep features as large as shallow ones
    for block in unet.up_blocks[:-1]:
        block.upsamplers[0].conv.weight.data *= 6
    # A trained encoder's embeddings differ between prompts by about their own size; initial ones by a hundredth of it.
    for name in "text_encoder", "text_encoder_2":
        if getattr(pipe, name, None):
            getattr(pipe, name).text_model.embeddings.token_embedding.weight.data *= 50
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
            for parameter in module.parameters():
                parameter.data = parameter.data.half().float()


def tiny_pipeline(variant, seed=0):
    """16x16 latents, 128x128 pictures, 24 tokens a prompt; mostly float32."""
    options = VARIANTS[variant]
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, **options.get("tokenizer", {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = dict(
            tokenizer=tokenizer,
            text_encoder=text_encoder(CLIPTextModel, tokenizer, **options.get("text", {})),
            scheduler=DDIMScheduler(
                **dict(
                    beta_start=0.00085,
                    beta_end=0.012,
                    beta_schedule="scaled_linear",
                    clip_sample=False,
                    set_alpha_to_one=False,
                    steps_offset=1,
                )
                | options.get("scheduler", {})
            ),
        )
        if variant.startswith("sdxl"):
            tokenizer_2 = CLIPTokenizer.from_pretrained(TOKENIZER, pad_token="!")
            pipe = options.get("pipeline", StableDiffusionXLPipeline)(
                **parts | options.get("arguments", {}),
                tokenizer_2=tokenizer_2,
                unet=tiny_unet(**XL_UNET | options.get("unet", {})),
                vae=tiny_vae(),
                text_encoder_2=text_encoder(
                    CLIPTextModelWithProjection,
                    tokenizer_2,
                    hidden_size=48,
                    intermediate_size=96,
                    num_hidden_layers=3,
                    projection_dim=40,
                    hidden_act="gelu",
                ),
                add_watermarker=False,
            )
        else:
            width = parts["text_encoder"].config.hidden_size
            pipe = options.get("pipeline", StableDiffusionPipeline)(
                **parts,
                unet=tiny_unet(**SD_UNET | dict(cross_attention_dim=width) | options.get("unet", {})),
                vae=tiny_vae(),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    if variant == "textual_inversion":  # trained encoders' states have a mean, which weighted prompts keep
        torch.nn.init.constant_(pipe.text_encoder.text_model.final_layer_norm.bias, 0.25)
    telling(pipe)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(options.get("dtype", torch.float32))
