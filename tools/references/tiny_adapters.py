"""Small LoRAs and textual inversions for the tiny pipelines: seeded random numbers in the layouts that users have."""

import torch
from safetensors.torch import save_file


def matrices(layer, rank, generator):
    """Down [rank, in, ...] and up [out, rank, ...] of a linear layer or a convolution; together about its own size."""
    down_shape, up_shape = [rank, *layer.weight.shape[1:]], [len(layer.weight), rank]
    up_shape += [1] * (layer.weight.dim() - 2)
    down = torch.randn(down_shape, generator=generator)
    up = torch.randn(up_shape, generator=generator)
    share = layer.weight.norm() / (up.flatten(1) @ down.flatten(1)).norm()
    return down * share.sqrt(), up * share.sqrt()


def layers_of(module, names):
    return {name: layer for name, layer in module.named_modules() if name.endswith(names)}


def peft_lora(pipe, file, rank=2, seed=1):
    """Attention of UNet and text encoder, as diffusers' training scripts save it: no alpha, which then is the rank."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    for part, names in ("unet", ("to_q", "to_k", "to_v", "to_out.0")), ("text_encoder", ("q_proj", "v_proj")):
        for name, layer in layers_of(getattr(pipe, part), names).items():
            down, up = matrices(layer, rank, generator)
            weights |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    save_file(weights, file)


def kohya_lora(pipe, file, rank=3, alpha=2.0, seed=2):
    """Attention, feed-forward layers and convolutions, as kohya's scripts save them: half precision, an alpha each."""
    generator, weights = torch.Generator().manual_seed(seed), {}
    text = "te1" if hasattr(pipe, "text_encoder_2") else "te"
    unet = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in", "conv1")
    encoder = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    parts = [("unet", "unet", unet), (text, "text_encoder", encoder)]
    if text == "te1":
        parts.append(("te2", "text_encoder_2", encoder))
    for prefix, part, names in parts:
        for name, layer in layers_of(getattr(pipe, part), names).items():
            key = f"lora_{prefix}_{name.replace('.', '_')}"
            down, up = matrices(layer, rank, generator)
            weights |= {f"{key}.lora_down.weight": down.half(), f"{key}.lora_up.weight": up.half()}
            weights[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(weights, file)


def write_adapters(variant, pipe, folder):
    """What the variant is exported with, as export() takes it.

    The LoRAs are taken from the weights beforehand, so that the sums, which the package holds, are exact in float16.
    """
    if variant == "lora":
        peft_lora(pipe, folder / "peft.safetensors")
        kohya_lora(pipe, folder / "kohya.safetensors")
        for name, scale in ("peft", -0.7), ("kohya", 0.4):
            pipe.load_lora_weights(folder, weight_name=f"{name}.safetensors")
            pipe.fuse_lora(lora_scale=scale)
            pipe.unload_lora_weights()
        return {"loras": [f"{folder}/peft.safetensors:0.7", f"{folder}/kohya.safetensors:-0.4"]}
    if variant == "textual_inversion":
        save_file({"<cat>": concept(pipe.text_encoder, 3)}, folder / "cat.safetensors")
        save_file({"<sun>": concept(pipe.text_encoder, 1)}, folder / "sun.safetensors")
        return {"textual_inversions": [f"{folder}/cat.safetensors", f"{folder}/sun.safetensors:<star>"]}
    return {}


def concept(encoder, vectors):
    """Random vectors like the encoder's own embeddings, exact in float16: [vectors, D], or [D] for one."""
    embeddings = encoder.get_input_embeddings().weight
    drawn = torch.randn(vectors, embeddings.shape[1], generator=torch.Generator().manual_seed(vectors))
    drawn = (drawn * embeddings.std()).half().float()
    return drawn if vectors > 1 else drawn[0]


def load_adapters(pipe, loras=(), textual_inversions=()):
    """Gives the pipeline what write_adapters returned as diffusers has it: LoRAs are layers beside the weights."""
    scales = {}
    for lora in loras:
        file, _, scale = lora.rpartition(":")
        name = f"lora{len(scales)}"
        pipe.load_lora_weights(file, adapter_name=name)
        scales[name] = float(scale)
    if scales:
        pipe.set_adapters(list(scales), list(scales.values()))
    for option in textual_inversions:
        file, _, token = option.partition(":")
        pipe.load_textual_inversion(file, token=token or None)
