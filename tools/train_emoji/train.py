"""Trains the emoji model: a latent-diffusion text-to-image model in diffusers' layout, small enough to ship.

Stages: a CLIP-style byte-level BPE; an autoencoder (64x64x3 to 16x16x4); then a UNet with cross-attention and its CLIP
text encoder, together, on epsilon prediction. Runs on two CPU cores in hours, on a GPU in minutes. It stops after
--minutes; --resume goes on from the folder's weights with a fresh learning-rate cycle. The shipped model was made by:

    for kind in all chosen more colors; do python tools/train_emoji/make_dataset.py $kind --out emoji/$kind; done
    python tools/train_emoji/train.py --data emoji/all --out pipeline --autoencoder-minutes 12 --minutes 24
    python tools/train_emoji/train.py --data emoji/chosen --out pipeline --minutes 60 --resume
    for cycle in "64" "100" "45 --learning-rate 4e-4"; do
        python tools/train_emoji/train.py --data emoji/chosen emoji/more emoji/colors --shares 9 5 6 --out pipeline \
            --resume --minutes $cycle
    done
    python tools/export.py pipeline models/emoji --storage-dtype float16

Minutes are wall-clock time, so that another machine gives other weights.
"""

import argparse
import copy
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

BETAS = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
)  # as Stable Diffusion
MAX_TOKENS = 24


def make_tokenizer(captions, folder):
    """Learns merges on the captions and writes vocab.json and merges.txt in CLIP's format."""
    os.makedirs(folder, exist_ok=True)
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), bytes_only]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1800,
        min_frequency=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        special_tokens=[],
    )
    bpe.train_from_iterator([c[1] for c in captions] * 2 + [k for c in captions for k in c[2]], trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    symbols = list(bytes_to_unicode().values())
    vocab = dict.fromkeys(
        symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    )
    with open(f"{folder}/vocab.json", "w") as file:
        json.dump({token: i for i, token in enumerate(vocab)}, file, ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w") as file:
        file.write("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    CLIPTokenizer(f"{folder}/vocab.json", f"{folder}/merges.txt", model_max_length=MAX_TOKENS).save_pretrained(folder)


def cosine(progress, peak, step, warmup):
    return peak * min(1, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1))) + 1e-5


def optimise(loss, optimizer, parameters, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def fast_training(unet, device):
    """On a CPU, the fused attention's backward and channels_last are slower than plain operators."""
    if device == "cpu":
        unet.set_attn_processor(AttnProcessor())
        return unet
    return unet.to(device, memory_format=torch.channels_last)


def autocast(device):
    """bfloat16 but for CPUs that would emulate it."""
    emulated = device == "cpu" and not torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast(device, dtype=torch.bfloat16, enabled=not emulated)


def average_into(averages, parameters, decay):
    with torch.no_grad():
        torch._foreach_lerp_(list(averages), list(parameters), 1 - decay)


def train_autoencoder(images, seconds, device):
    """Trains on the pictures and their mirror images, and returns the averaged weights."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )
    vae = vae.to(device, memory_format=torch.channels_last)
    average, optimizer = copy.deepcopy(vae), torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0)
    start, step = time.time(), 0
    while (elapsed := time.time() - start) < seconds:
        batch = images[torch.randint(0, len(images), (24,))]
        if random.random() < 0.5:
            batch = batch.flip(3)
        batch = batch.to(device, memory_format=torch.channels_last)
        with autocast(device):
            posterior = vae.encode(batch).latent_dist
            output = vae.decode(posterior.mean + posterior.std.clamp(max=0.3) * torch.randn_like(posterior.mean)).sample
        output, mean, variance, log_variance = (
            output.float(),
            posterior.mean.float(),
            posterior.var.float(),
            posterior.logvar.float(),
        )
        edges = F.l1_loss(output.diff(dim=3), batch.diff(dim=3)) + F.l1_loss(output.diff(dim=2), batch.diff(dim=2))
        divergence = (mean.square() + variance - 1 - log_variance).sum([1, 2, 3]).mean()
        loss = F.l1_loss(output, batch) + F.mse_loss(output, batch) + 0.5 * edges + 1e-6 * divergence
        optimise(loss, optimizer, vae.parameters(), cosine(elapsed / seconds, 2e-3, step, 50))
        step += 1
        average_into(average.parameters(), vae.parameters(), min(0.999, (1 + step) / (10 + step)))
        if step % 100 == 0:
            print(f"autoencoder step {step}, {elapsed:.0f} s, loss {loss.item():.4f}", flush=True)
    print(f"autoencoder: {step} steps, loss {loss.item():.4f}", flush=True)
    return average.eval()


def sample_caption(name, keywords):
    chance = random.random()
    if chance < 0.1:
        return ""  # for classifier-free guidance
    if chance < 0.3 and keywords:
        return ", ".join([name] + random.sample(keywords, min(len(keywords), random.randint(1, 3))))
    return name


def tokenize(tokenizer, texts):
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def new_unet():
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(48, 96, 128),
        layers_per_block=2,
        norm_num_groups=16,
        cross_attention_dim=96,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )


def new_text_encoder(size):
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size,
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=size - 2,
            eos_token_id=size - 1,
            pad_token_id=size - 1,
            projection_dim=96,
        )
    )


def train_denoiser(unet, text_encoder, tokenizer, latents, captions, shares, args, save):
    """Trains UNet and text encoder together, and calls `save` with their averages every ten minutes and at the end."""
    device = args.device
    average_unet, average_text = copy.deepcopy(unet).eval(), copy.deepcopy(text_encoder).eval()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    averages = [*average_unet.parameters(), *average_text.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=1e-3, betas=(0.9, 0.99))
    alphas = DDPMScheduler(**BETAS).alphas_cumprod.to(device)
    start, saved, step, losses = time.time(), time.time(), 0, []
    while (elapsed := time.time() - start) < 60 * args.minutes:
        index = torch.multinomial(shares, args.batch_size, replacement=True)
        tokens = tokenize(tokenizer, [sample_caption(*captions[i][1:]) for i in index.tolist()]).to(device)
        clean = latents[index.to(device)]
        noise, timestep = torch.randn_like(clean), torch.randint(0, 1000, (args.batch_size,), device=device)
        alpha = alphas[timestep].view(-1, 1, 1, 1)
        with autocast(device):
            noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
            prediction = unet(noisy, timestep, text_encoder(tokens).last_hidden_state).sample
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=5) / snr  # min-SNR weighting (arXiv 2303.09556), gamma 5
        loss = ((prediction.float() - noise).square().mean([1, 2, 3]) * weight).mean()
        optimise(loss, optimizer, parameters, cosine(elapsed / (60 * args.minutes), args.learning_rate, step, 100))
        step += 1
        losses.append(loss.item())
        average_into(averages, parameters, min(0.9985, (1 + step) / (10 + step)))
        if step % 50 == 0:
            print(f"step {step}, {elapsed:.0f} s, loss {np.mean(losses[-50:]):.4f}", flush=True)
        if time.time() - saved > 600:
            saved = time.time()
            save(average_unet, average_text)
    print(f"{step} steps, loss {np.mean(losses[-50:]):.4f}", flush=True)
    save(average_unet, average_text)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["."], help="folders of images.npy and captions.json")
    parser.add_argument("--shares", nargs="+", type=float, help="how often each folder is drawn from (by its size)")
    parser.add_argument("--out", default="pipeline", help="diffusers pipeline folder")
    parser.add_argument("--minutes", type=float, default=90, help="for UNet and text encoder")
    parser.add_argument("--autoencoder-minutes", type=float, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="the peak, for UNet and text encoder")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in --out; the autoencoder stays")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.shares and len(args.shares) != len(args.data):
        parser.error(
            f"--shares takes a number for each of the {len(args.data)} folders of --data, got {len(args.shares)}"
        )
    return args


def read_data(folders, shares):
    """Pictures [N, 3, 64, 64] in [-1, 1], their captions, and how often each is drawn, [N]."""
    images, captions, drawn = [], [], []
    for i, folder in enumerate(folders):
        images.append(torch.from_numpy(np.load(f"{folder}/images.npy")).permute(0, 3, 1, 2).float() / 127.5 - 1)
        with open(f"{folder}/captions.json", encoding="utf8") as file:
            captions += json.load(file)
        count = len(images[-1])
        drawn.append(torch.full((count,), shares[i] / count if shares else 1.0))
    return torch.cat(images), captions, torch.cat(drawn)


def main():
    args = parse_arguments()
    torch.manual_seed(0)
    random.seed(0)
    device = args.device
    images, captions, shares = read_data(args.data, args.shares)
    if not args.resume:
        make_tokenizer(captions, f"{args.out}/tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(f"{args.out}/tokenizer")
    if args.resume:
        vae = AutoencoderKL.from_pretrained(f"{args.out}/vae").to(device).eval()
        unet = UNet2DConditionModel.from_pretrained(f"{args.out}/unet")
        text_encoder = CLIPTextModel.from_pretrained(f"{args.out}/text_encoder")
    else:
        vae = train_autoencoder(images, 60 * args.autoencoder_minutes, device)
        unet, text_encoder = new_unet(), new_text_encoder(len(tokenizer))
    with torch.no_grad():
        latents = torch.cat([vae.encode(batch.to(device)).latent_dist.mean for batch in images.split(64)])
    if not args.resume:
        vae.register_to_config(scaling_factor=1 / latents.std().item())
    latents = latents * vae.config.scaling_factor

    def save(average_unet, average_text):
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=average_text,
            tokenizer=tokenizer,
            unet=average_unet,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            scheduler=DDIMScheduler(**BETAS, set_alpha_to_one=False, steps_offset=1),
        ).save_pretrained(args.out)

    unet, text_encoder = fast_training(unet, device).train(), text_encoder.to(device).train()
    train_denoiser(unet, text_encoder, tokenizer, latents, captions, shares, args, save)


if __name__ == "__main__":
    main()
