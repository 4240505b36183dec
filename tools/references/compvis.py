"""A model in plain PyTorch of what CompVis's latent-diffusion computes when it samples from class labels.

Modules carry the names that the originals have in a checkpoint, and settings those of the originals' YAML files: a
state_dict of `LatentDiffusion` is one of a checkpoint, less the encoder. Checked against the original code
(github.com/CompVis/latent-diffusion, taming-transformers) and DeepCache's version of it (github.com/horseee/DeepCache,
experiments/ldm): networks agree bit for bit or to 1e-6, latents after up to 500 steps to 3e-6 of the largest.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# ---- UNet (ldm/modules/diffusionmodules/openaimodel.py, ldm/modules/attention.py)


class ResBlock(nn.Module):
    def __init__(self, in_channels, out_channels, time_channels):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x, time, _):
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    def __init__(self, channels, context_dim, heads):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x, context):
        q, k, v = (
            tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(dim=3)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * hidden)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(GatedGelu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x):
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, channels, context_dim, heads):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x, context):
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, channels, context_dim, heads, depth):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, context_dim, heads) for _ in range(depth))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, _, context):
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:])) + x


class Conv(nn.Conv2d):
    def forward(self, x, *_):
        return super().forward(x)


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, *_):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, *_):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stages(nn.Sequential):
    def forward(self, x, time, context):
        for stage in self:
            x = stage(x, time, context)
        return x


class UNetModel(nn.Module):
    def __init__(
        self,
        in_channels,
        out_channels,
        model_channels,
        attention_resolutions,
        num_res_blocks,
        channel_mult,
        context_dim,
        num_heads=-1,
        num_head_channels=-1,
        transformer_depth=1,
        **_,
    ):
        super().__init__()
        time_channels = 4 * model_channels

        def stages(channels, out, stride, further=()):
            found = [ResBlock(channels, out, time_channels)]
            if stride in attention_resolutions:
                heads = num_heads if num_head_channels == -1 else out // num_head_channels
                found.append(SpatialTransformer(out, context_dim, heads, transformer_depth))
            return Stages(*found, *further)

        self.model_channels = model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels)
        )
        self.input_blocks = nn.ModuleList([Stages(Conv(in_channels, model_channels, 3, padding=1))])
        channels, skips, stride = model_channels, [model_channels], 1
        for level, multiple in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.input_blocks.append(stages(channels, multiple * model_channels, stride))
                channels = multiple * model_channels
                skips.append(channels)
            if level + 1 < len(channel_mult):
                self.input_blocks.append(Stages(Downsample(channels)))
                skips.append(channels)
                stride *= 2
        heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.middle_block = Stages(
            ResBlock(channels, channels, time_channels),
            SpatialTransformer(channels, context_dim, heads, transformer_depth),
            ResBlock(channels, channels, time_channels),
        )
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                out, last = multiple * model_channels, level > 0 and i == num_res_blocks
                upsample = [Upsample(out)] if last else []
                self.output_blocks.append(stages(channels + skips.pop(), out, stride, upsample))
                channels = out
            stride //= 2
        self.out = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))

    def embed_time(self, timesteps):
        half = self.model_channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = timesteps[:, None].float() * frequencies
        return self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))

    def forward(self, x, timesteps, context, branch=None, feature=None):
        """The noise in x, and the first operand of each skip concatenation, from the last one back.

        With a feature, that takes the place of the first operand of the concatenation that is `branch` from the last:
        so DeepCache's version of this code (experiments/ldm of github.com/horseee/DeepCache) makes its cached steps,
        which knows branch 0 only.
        """
        time, skips, features, h = self.embed_time(timesteps), [], [], x
        for block in self.input_blocks:
            h = block(h, time, context)
            skips.append(h)
        h = self.middle_block(h, time, context)
        for i, block in enumerate(self.output_blocks):
            if feature is not None and i == len(self.output_blocks) - 1 - branch:
                h = feature
            features.insert(0, h)
            h = block(torch.cat([h, skips.pop()], dim=1), time, context)
        return self.out(h), features


# ---- Autoencoder (ldm/models/autoencoder.py, ldm/modules/diffusionmodules/model.py; taming's VectorQuantizer2)


class DecoderResnet(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


def swish(x):
    return x * torch.sigmoid(x)


class DecoderAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (projection(h).flatten(2) for projection in (self.q, self.k, self.v))
        weights = (torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5).softmax(dim=2)
        return x + self.proj_out(torch.bmm(v, weights.transpose(1, 2)).reshape(x.shape))


class Decoder(nn.Module):
    def __init__(self, ch, out_ch, ch_mult, num_res_blocks, z_channels, **_):
        super().__init__()
        channels = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, channels, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1 = DecoderResnet(channels, channels)
        self.mid.attn_1 = DecoderAttention(channels)
        self.mid.block_2 = DecoderResnet(channels, channels)
        levels = []
        for i, multiple in reversed(list(enumerate(ch_mult))):
            level = nn.Module()
            level.block = nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(DecoderResnet(channels, ch * multiple))
                channels = ch * multiple
            if i > 0:
                level.upsample = Upsample(channels)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(32, channels, eps=1e-6)
        self.conv_out = nn.Conv2d(channels, out_ch, 3, padding=1)

    def forward(self, z):
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(self.conv_in(z))))
        for level in reversed(self.up):
            for block in level.block:
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(swish(self.norm_out(h)))


class Codebook(nn.Module):
    def __init__(self, n_embed, embed_dim):
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def forward(self, z):
        """The nearest code of each pixel of z [B, D, h, w]."""
        pixels, codes = z.permute(0, 2, 3, 1), self.embedding.weight
        flat = pixels.reshape(-1, codes.shape[1])
        distances = (flat**2).sum(dim=1, keepdim=True) + (codes**2).sum(dim=1) - 2 * (flat @ codes.T)
        nearest = self.embedding(distances.argmin(dim=1)).view(pixels.shape)
        return (pixels + (nearest - pixels)).permute(0, 3, 1, 2)  # the sum rounds


class FirstStage(nn.Module):
    def __init__(self, embed_dim, n_embed, ddconfig, **_):
        super().__init__()
        self.decoder = Decoder(**ddconfig)
        self.quantize = Codebook(n_embed, embed_dim)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def decode(self, latents):
        return self.decoder(self.post_quant_conv(self.quantize(latents)))


# ---- The model, and DDIM (ldm/models/diffusion/ddpm.py, ddim.py, ldm/modules/diffusionmodules/util.py)


class ClassEmbedder(nn.Module):
    def __init__(self, embed_dim, n_classes, **_):
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, labels):
        return self.embedding(labels[:, None])


def make_alphas_cumprod(timesteps, linear_start, linear_end, schedule="linear"):
    """By CompVis's names: of "linear" the betas' roots are linear, of "sqrt_linear" the betas."""
    power = {"linear": 2, "sqrt_linear": 1}[schedule]
    betas = torch.linspace(linear_start ** (1 / power), linear_end ** (1 / power), timesteps, dtype=torch.float64)
    betas = betas**power
    return (1 - betas).cumprod(dim=0).float()


class DDIM:
    """One run's schedule; index 0 is the last step."""

    def __init__(self, alphas_cumprod, steps, eta):
        count = len(alphas_cumprod)
        self.timesteps = torch.arange(0, count, count // steps) + 1  # beyond the last one for many numbers of steps
        self.alphas = alphas_cumprod[self.timesteps]
        self.alphas_prev = torch.cat([alphas_cumprod[:1], self.alphas[:-1]])
        alphas, before = self.alphas, self.alphas_prev.double()  # the original's are in numpy, which has float64
        self.sigmas = (eta * ((1 - before) / (1 - alphas) * (1 - alphas / before)).sqrt()).float()

    def step(self, index, x, noise_prediction, noise):
        alpha, before, sigma = self.alphas[index], self.alphas_prev[index], self.sigmas[index]
        x_0 = (x - (1 - alpha).sqrt() * noise_prediction) / alpha.sqrt()
        direction = (1 - before - sigma**2).sqrt() * noise_prediction
        return before.sqrt() * x_0 + direction + sigma * noise


class LatentDiffusion(nn.Module):
    """From the `params` of a YAML file's `model`."""

    def __init__(self, params):
        super().__init__()
        self.model = nn.Module()
        self.model.diffusion_model = UNetModel(**params["unet_config"]["params"])
        self.first_stage_model = FirstStage(**params["first_stage_config"]["params"])
        self.cond_stage_model = ClassEmbedder(**params["cond_stage_config"]["params"])
        self.scale_factor = params.get("scale_factor", 1.0)
        self.alphas_cumprod = make_alphas_cumprod(params["timesteps"], params["linear_start"], params["linear_end"])

    def decode(self, latents):
        """A picture in [0, 1]."""
        decoded = self.first_stage_model.decode(1.0 / self.scale_factor * latents)
        return torch.clamp((decoded + 1.0) / 2.0, min=0.0, max=1.0)

    def sample(self, labels, latents, steps, eta, scale, draw, interval=0, branch=0):
        """Latents after each step, timesteps, and the indices of the steps that ran the whole UNet.

        `draw` gives the noise of a step. An interval of 0 doesn't cache.
        """
        unet, ddim = self.model.diffusion_model, DDIM(self.alphas_cumprod, steps, eta)
        context, guided = self.cond_stage_model(labels), scale != 1
        if guided:
            unconditional = self.cond_stage_model.embedding.num_embeddings - 1
            context = torch.cat([self.cond_stage_model(torch.full_like(labels, unconditional)), context])
        after, full_steps, x, feature = [], [], latents, None
        for call, index in enumerate(reversed(range(len(ddim.timesteps)))):
            batch = torch.cat([x, x]) if guided else x
            full = interval == 0 or call % interval == 0
            timesteps = ddim.timesteps[index].expand(len(batch))
            output, features = unet(batch, timesteps, context, branch, None if full else feature)
            if full:
                feature = features[branch]
                full_steps.append(call)
            if guided:
                unconditional, conditional = output.chunk(2)
                output = unconditional + scale * (conditional - unconditional)
            x = ddim.step(index, x, output, draw(x.shape))
            after.append(x)
        return torch.stack(after), ddim.timesteps.flip(0), full_steps
