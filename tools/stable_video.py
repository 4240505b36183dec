"""What export.py knows of Stable Video Diffusion: its networks, and how its pipeline is run for the check."""

from types import SimpleNamespace
from unittest import mock

import PIL.Image
import torch

from families import Family, Network, UsageError, upcast_from, vae_in, vae_networks, view_of

IMAGE_SIZE = 224  # pixels of a side: what the pipeline resizes to, whatever the image encoder's configuration says
CHECK_FRAMES, CHECK_CHUNK = 3, 2  # frames are decoded in two calls, of 2 and of 1


def image_encoder_forward(_, original):
    return lambda pixel_values: original(pixel_values).image_embeds


def repeat_frames(tensor, repeats, dim, output_size):
    """`repeat_interleave` along the batch.

    Its number of repeats, a dimension of the sample, is a tensor in a trace. That operator then looks for it on the
    sample's device, where it isn't, and has no kernel for shapes alone.
    """
    assert dim == 0
    return tensor.unsqueeze(1).expand(-1, repeats, *tensor.shape[1:]).flatten(0, 1).contiguous()


def unet_forward(_, original):
    def forward(sample, timestep, encoder_hidden_states, added_time_ids):
        with mock.patch.object(torch.Tensor, "repeat_interleave", repeat_frames):
            return original(sample, timestep, encoder_hidden_states, added_time_ids, return_dict=False)[0]

    return forward


class VideoDecoder(torch.nn.Module):
    """Latents [B, F, 4, h, w], already divided by the scaling factor, to frames [B, F, 3, H, W] in about [-1, 1]."""

    def __init__(self, vae):
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, latents):
        batch, frames = latents.shape[:2]
        not_images = torch.zeros(batch, frames, dtype=latents.dtype, device=latents.device)
        return self.decoder(latents.flatten(0, 1), not_images, frames).unflatten(0, (batch, frames))


def unet_inputs(pipe, size):
    config, dtype = pipe.unet.config, pipe.dtype
    sample = torch.randn(size.batch, size.frames, config.in_channels, size.height, size.width)
    embeddings = torch.randn(size.batch, 1, config.cross_attention_dim)
    number = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    time_ids = torch.rand(size.batch, number) * 100
    # Continuous timesteps, 0.25 log sigma, go from about 1.6 to -1.6.
    return sample.to(dtype), torch.tensor(1.6 / size.batch), embeddings.to(dtype), time_ids.to(dtype)


def decoder_inputs(pipe, size):
    shape = (size.batch, size.frames, pipe.vae.config.latent_channels, size.height, size.width)
    return (torch.randn(shape).to(pipe.dtype),)


def decoded(pipe, latents):
    vae = vae_in(pipe, pipe.dtype)
    frames = vae.decode(latents.flatten(0, 1), num_frames=latents.shape[1]).sample
    return (frames.unflatten(0, latents.shape[:2]),)


def exported_decoder(pipe, exported):
    """What the pipeline asks of its VAE: one video's frames along the batch."""
    return pipe.vae, "decode", lambda latents, num_frames: SimpleNamespace(sample=exported(latents[None])[0])


def check_picture(side):
    """Wider than high, so that it is stretched as well as enlarged."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (side // 2, side, 3), dtype=torch.uint8, generator=generator)
    return PIL.Image.fromarray(pixels.numpy())


def sample_video(pipe, steps):
    """A short run of the pipeline: final latents, and the frames that they decode to. @throws UsageError"""
    if (got := pipe.image_encoder.config.image_size) != IMAGE_SIZE:
        raise UsageError(
            f"image_encoder/config.json: image_size must be {IMAGE_SIZE}, as the pipeline has it, not {got}"
        )
    side, preprocess, dtype = 16 * pipe.vae_scale_factor, pipe.video_processor.preprocess, ENCODER_DTYPE(pipe)
    # diffusers hands its VAE float32 whatever it runs in, which bfloat16 can't take.
    with mock.patch.object(pipe.video_processor, "preprocess", lambda *a, **kw: preprocess(*a, **kw).to(dtype)):
        latents = pipe(
            check_picture(side),
            height=side,
            width=side,
            num_frames=CHECK_FRAMES,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).frames
    picture = pipe.decode_latents(latents, CHECK_FRAMES, CHECK_CHUNK).to(pipe.dtype)
    return {"latents": latents, "picture": picture}


ENCODER_DTYPE = upcast_from(torch.float16)
IMAGE_ENCODER = Network(
    "image_encoder/model.pt",
    lambda pipe: view_of(pipe.image_encoder, image_encoder_forward),
    lambda pipe, size: (torch.randn(size.batch, 3, IMAGE_SIZE, IMAGE_SIZE).to(pipe.dtype),),
    lambda pipe, pixels: (pipe.image_encoder(pixels).image_embeds,),
    stand_in=lambda pipe, exported: (
        pipe.image_encoder,
        "forward",
        lambda pixels: SimpleNamespace(image_embeds=exported(pixels)),
    ),
)
UNET = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unet_forward),
    unet_inputs,
    lambda pipe, *inputs: (pipe.unet(*inputs).sample,),
    stand_in=lambda pipe, exported: (
        pipe.unet,
        "forward",
        lambda sample, timestep, encoder_hidden_states, added_time_ids, **_: (
            exported(sample, timestep, encoder_hidden_states, added_time_ids),
        ),
    ),
)
DECODER = Network(
    "vae/decoder.pt",
    lambda pipe: VideoDecoder(vae_in(pipe, pipe.dtype)),
    decoder_inputs,
    decoded,
    stand_in=exported_decoder,
)
_, ENCODER = vae_networks(ENCODER_DTYPE, ENCODER_DTYPE)

STABLE_VIDEO_DIFFUSION = Family(
    name="stable-video-diffusion",
    components={
        "scheduler": (),
        "feature_extractor": ("CLIPImageProcessor",),
        "image_encoder": ("CLIPVisionModelWithProjection",),
        "unet": ("UNetSpatioTemporalConditionModel",),
        "vae": ("AutoencoderKLTemporalDecoder",),
    },
    networks=(IMAGE_ENCODER, UNET, DECODER, ENCODER),
    unsupported={},
    sample=sample_video,
)
FAMILIES = {"StableVideoDiffusionPipeline": STABLE_VIDEO_DIFFUSION}
