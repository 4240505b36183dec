"""Writes a diffusers folder of a Stable Diffusion as OpenVINO GenAI reads it: openvino_folder.py PIPELINE_DIR OUT

optimum-intel makes such folders too, in environments with other versions of transformers and diffusers.
"""

import shutil
import sys
from pathlib import Path

import openvino
import openvino_tokenizers
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizerFast


class Network(torch.nn.Module):
    """A network whose outputs are tensors, not what diffusers and transformers wrap them in."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs):
        return self.call(self.network, *inputs)


def convert(network, call, inputs, outputs, file):
    """Of any size. `inputs` are examples by name."""
    module = Network(network, call).eval()
    with torch.inference_mode():
        traced = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)
        model = openvino.convert_model(traced, example_input=tuple(inputs.values()))
    shapes = {}
    for (name, example), port in zip(inputs.items(), model.inputs, strict=True):
        port.get_tensor().set_names({name})
        shapes[port] = [example.shape[i] if i == 1 and example.dim() == 4 else -1 for i in range(example.dim())]
    for name, port in zip(outputs, model.outputs, strict=True):
        port.get_tensor().set_names({name})
    model.reshape(shapes)
    file.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, file, compress_to_fp16=False)


def main():
    source, out = map(Path, sys.argv[1:])
    half_made = out.with_name(out.name + ".part")
    shutil.rmtree(half_made, ignore_errors=True)
    pipe = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32)
    length, width = pipe.tokenizer.model_max_length, pipe.text_encoder.config.hidden_size
    convert(
        pipe.text_encoder,
        lambda network, ids: network(ids, return_dict=False),
        {"input_ids": torch.ones(2, length, dtype=torch.int64)},
        ["last_hidden_state", "pooler_output"],
        half_made / "text_encoder/openvino_model.xml",
    )
    convert(
        pipe.vae,
        lambda network, latents: network.decode(latents, return_dict=False)[0],
        {"latent_sample": torch.randn(1, pipe.vae.config.latent_channels, 16, 16)},
        ["sample"],
        half_made / "vae_decoder/openvino_model.xml",
    )
    convert(
        pipe.unet,
        lambda network, *inputs: network(*inputs, return_dict=False)[0],
        {
            "sample": torch.randn(2, pipe.unet.config.in_channels, 16, 16),
            "timestep": torch.tensor([500]),
            "encoder_hidden_states": torch.randn(2, length, width),
        },
        ["out_sample"],
        half_made / "unet/openvino_model.xml",
    )
    pipe.unet.save_config(half_made / "unet")
    pipe.vae.save_config(half_made / "vae_decoder")
    pipe.text_encoder.config.save_pretrained(half_made / "text_encoder")
    DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False).save_config(half_made / "scheduler")
    tokenizer = CLIPTokenizerFast.from_pretrained(source / "tokenizer")
    tokenizer.save_pretrained(half_made / "tokenizer")
    openvino.save_model(
        openvino_tokenizers.convert_tokenizer(tokenizer), half_made / "tokenizer/openvino_tokenizer.xml"
    )
    shutil.copy(source / "model_index.json", half_made)
    half_made.rename(out)


if __name__ == "__main__":
    main()
