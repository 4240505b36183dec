"""Small Stable Diffusion pipelines for tests: the whole architecture in 0.4 M seeded random parameters.

Their pictures are noise; what matters is that every part is there and that each branch of the UNet changes the result.
The weights are rounded to float16, so that a package may store them in half the bytes and still be exact.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "models/emoji/tokenizer"
ATTENTION_DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
ATTENTION_UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3

# What a variant changes: in the UNet's config, the text encoder's, the scheduler's, the tokenizer's; what it runs in.
VARIANTS = {
    "sd1": dict(unet={}, text={}, scheduler={}, tokenizer={}),
    "sd2": dict(
        unet=dict(use_linear_projection=True, attention_head_dim=(2, 4, 4, 4)),
        text=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, hidden_act="gelu"),
        scheduler=dict(prediction_type="v_prediction"),
        tokenizer=dict(pad_token="!"),
    ),
    "one_layer": dict(unet=dict(layers_per_block=1), text={}, scheduler={}, tokenizer={}),
    "three_layers": dict(unet=dict(layers_per_block=3), text={}, scheduler={}, tokenizer={}),
    "sd1_bfloat16": dict(unet={}, text={}, scheduler={}, tokenizer={}, dtype=torch.bfloat16),
}


def tiny_pipeline(variant, seed=0):
    """A StableDiffusionPipeline: 16x16 latents on four levels, 128x128 pictures, 24 tokens a prompt; mostly float32."""
    options = VARIANTS[variant]
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, **options["tokenizer"])
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
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
                    bos_token_id=start,
                    eos_token_id=end,
                    pad_token_id=tokenizer.pad_token_id,
                )
                | options["text"]
            )
        )
        unet = UNet2DConditionModel(
            **dict(
                sample_size=16,
                block_out_channels=(8, 16, 16, 16),
                norm_num_groups=8,
                attention_head_dim=4,
                cross_attention_dim=text_encoder.config.hidden_size,
                down_block_types=ATTENTION_DOWN,
                up_block_types=ATTENTION_UP,
            )
            | options["unet"]
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=128,
            scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    # So that a wrong feature shows in the latents: an output as large as noise, deep features as large as shallow ones.
    unet.conv_out.weight.data *= 4
    for block in unet.up_blocks[:-1]:
        block.upsamplers[0].conv.weight.data *= 6
    # A trained encoder's embeddings differ between prompts by about their own size; initial ones by a hundredth of it.
    text_encoder.text_model.embeddings.token_embedding.weight.data *= 50
    for module in (text_encoder, unet, vae):
        module.eval().requires_grad_(False)
        for parameter in module.parameters():
            parameter.data = parameter.data.half().float()
    scheduler = DDIMScheduler(
        **dict(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )
        | options["scheduler"]
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(options.get("dtype", torch.float32))
