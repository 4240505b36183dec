"""What export.py knows of unconditional models: pipelines of a UNet2DModel and a scheduler alone, such as DDPM's."""

import torch
from diffusers import DDIMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from families import Family, Network, view_of


def unconditional_forward(_, original):
    return lambda sample, timestep: original(sample, timestep, return_dict=False)[0]


def unconditional_inputs(pipe, size):
    """At the next size that the UNet's strides divide: its up-sampling takes no other, in Python either."""
    config = pipe.unet.config
    stride = 2 ** (len(config.block_out_channels) - 1)
    height, width = (-(-side // stride) * stride for side in (size.height, size.width))
    sample = torch.randn(size.batch, config.in_channels, height, width).to(pipe.dtype)
    return sample, torch.tensor(999.0 / size.batch)


def unconditional_sample(pipe, steps):
    """A short run of DDIM, as the pipelines' own, which end in NumPy, that has no bfloat16: the picture, in about
    [-1, 1]."""
    sides, scheduler = pipe.unet.config.sample_size, DDIMScheduler.from_config(pipe.scheduler.config)
    sides = [sides, sides] if isinstance(sides, int) else sides
    image = torch.randn(1, pipe.unet.config.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    image = image.to(pipe.dtype)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        image = scheduler.step(pipe.unet(image, timestep).sample, timestep, image).prev_sample
    return {"picture": image}


UNET_UNCONDITIONAL = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unconditional_forward),
    unconditional_inputs,
    lambda pipe, sample, timestep: (pipe.unet(sample, timestep).sample,),
    stand_in=lambda pipe, exported: (
        pipe.unet,
        "forward",
        lambda sample, timestep, **_: UNet2DOutput(exported(sample, timestep)),
    ),
)
UNCONDITIONAL = Family(
    name="unconditional",
    components={"scheduler": (), "unet": ("UNet2DModel",)},
    networks=(UNET_UNCONDITIONAL,),
    unsupported={"unet": ("class_embed_type", "num_class_embeds")},
    sample=unconditional_sample,
    top_level=True,
)
FAMILIES = {"DDPMPipeline": UNCONDITIONAL, "DDIMPipeline": UNCONDITIONAL}
