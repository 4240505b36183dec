"""What export.py knows of Text2Video-Zero (arXiv 2303.13439): a Stable Diffusion whose UNet looks across frames."""

from contextlib import contextmanager
from dataclasses import replace

from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from diffusers.pipelines.text_to_video_synthesis.pipeline_text_to_video_zero import CrossFrameAttnProcessor2_0

from families import SCHEDULERS, STABLE_DIFFUSION, Network, unet_inputs, view_of


class FirstFrameAttention:
    """Cross-frame attention (arXiv 2303.13439, section 3.3.2): every frame attends to the first one's keys and values.

    diffusers' CrossFrameAttnProcessor2_0 writes the number of frames into a trace. Here the frames of a video are one
    long sequence of queries, so that keys and values, of the first frame as of the text, are computed once a video.
    """

    attention = AttnProcessor2_0()

    def __init__(self, videos):
        self.videos = videos  # in the batch: two under guidance, whose halves are a video each

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        _, tokens, channels = hidden_states.shape
        videos = hidden_states.reshape(self.videos, -1, channels)
        states = videos[:, :tokens] if encoder_hidden_states is None else encoder_hidden_states
        return self.attention(attn, videos, states, attention_mask).reshape(hidden_states.shape)


@contextmanager
def attention_processor(unet, processor):
    processors = unet.attn_processors
    unet.set_attn_processor(processor)
    try:
        yield
    finally:
        unet.set_attn_processor(processors)


def unet_forward(view, original):
    """Of sample [videos * frames, C, h, w] and encoder_hidden_states [videos, L, D], one for all frames of a video."""

    def forward(sample, timestep, encoder_hidden_states):
        with attention_processor(view, FirstFrameAttention(encoder_hidden_states.shape[0])):
            return original(sample, timestep, encoder_hidden_states, return_dict=False)[0]

    return forward


def frames_inputs(pipe, size):
    sample, timestep, states = unet_inputs(pipe, replace(size, batch=size.batch * size.frames))
    return sample, timestep, states[:: size.frames]


def unet_reference(pipe, sample, timestep, states):
    videos = states.shape[0]
    with attention_processor(pipe.unet, CrossFrameAttnProcessor2_0(batch_size=videos)):
        return (pipe.unet(sample, timestep, states.repeat_interleave(sample.shape[0] // videos, 0)).sample,)


def exported_unet(pipe, exported):
    """What the pipeline asks of its UNet, two halves whose frames have equal states, from the exported one."""

    def forward(sample, timestep, encoder_hidden_states, **_):
        return UNet2DConditionOutput(exported(sample, timestep, encoder_hidden_states[:: sample.shape[0] // 2]))

    return pipe.unet, "forward", forward


UNET = Network(
    "unet/model.pt",
    lambda pipe: view_of(pipe.unet, unet_forward),
    frames_inputs,
    unet_reference,
    stand_in=exported_unet,
)
TEXT_TO_VIDEO_ZERO = replace(
    STABLE_DIFFUSION,
    name="text-to-video-zero",
    networks=tuple(UNET if network.file == UNET.file else network for network in STABLE_DIFFUSION.networks),
    # The processor of the original leaves out what these ask for.
    unsupported=STABLE_DIFFUSION.unsupported
    | {"unet": (*STABLE_DIFFUSION.unsupported["unet"], "cross_attention_norm")},
    arguments=dict(video_length=3, t0=1, t1=2),
    # Those whose samples are of DDPM's process, in which the motion is added.
    schedulers={name: short for name, short in SCHEDULERS.items() if not name.startswith(("Euler", "Heun"))},
)
FAMILIES = {"TextToVideoZeroPipeline": TEXT_TO_VIDEO_ZERO}
