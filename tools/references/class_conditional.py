"""Records what CompVis's latent diffusion gives for class labels, cached and not, and exports the model that it ran.

    python tools/references/class_conditional.py [--out tests/data]

Writes packages/ldm/, the model package of a small checkpoint, and class_conditional/<case>.pt, a dictionary of tensors,
numbers and lists that `torch::pickle_load` reads; class_conditional/recorded.json lists the cases, the command and the
versions. What ran is compvis.py's model of the original. Fields of a case:

- settings: num_inference_steps, guidance_scale, eta, seed, class_labels [L], num_images_per_label, height and width (of
  the latents), cache_interval (0: not cached), cache_branch_id.
- results: timesteps [S] and step_latents [S, B, 3, h, w] after each of S steps, full_calls (the indices of those that
  ran the whole UNet), latents (the last ones), and image [B, 3, H, W] in [0, 1] where it was asked for.

Images of one label follow each other. Noise is drawn from one CPU generator with `seed`, first the initial latents.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import yaml

from compvis import LatentDiffusion
from pipelines import ROOT, save_results, versions

sys.path.insert(0, str(ROOT / "tools"))
from export import export, quiet  # noqa: E402  (tools/ is no package)

COMMAND = "python tools/references/class_conditional.py"
# Of the structure of configs/latent-diffusion/cin256-v2.yaml.
PARAMS = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 1000,
    "conditioning_key": "crossattn",
    "use_ema": False,
    "scale_factor": 0.8,
    "unet_config": {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": 16,
            "in_channels": 3,
            "out_channels": 3,
            "model_channels": 32,
            "attention_resolutions": [2],
            "num_res_blocks": 1,
            "channel_mult": [1, 1],
            "num_heads": 2,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 16,
        },
    },
    "first_stage_config": {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {
            "embed_dim": 3,
            "n_embed": 64,
            "ddconfig": {
                "double_z": False,
                "z_channels": 3,
                "resolution": 32,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 32,
                "ch_mult": [1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    },
    "cond_stage_config": {
        "target": "ldm.modules.encoders.modules.ClassEmbedder",
        "params": {"n_classes": 11, "embed_dim": 16, "key": "class_label"},
    },
}


def tiny_model(params=PARAMS):
    """Seeded random weights, such that labels and every branch matter; rounded to float16, so that a package may store
    them in half the bytes and still be exact."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LatentDiffusion(params)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                torch.nn.init.orthogonal_(parameter)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        unet = model.model.diffusion_model
        torch.nn.init.orthogonal_(unet.out[2].weight, gain=0.8)
        for layer in unet.modules():
            if hasattr(layer, "attn2"):
                torch.nn.init.orthogonal_(layer.attn2.to_v.weight, gain=4)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def write_checkpoint(model, folder, params=PARAMS):
    """model.ckpt and config.yaml as a user of cin256-v2 has them, records of the training included."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights["alphas_cumprod"] = model.alphas_cumprod
    weights["first_stage_model.encoder.conv_in.bias"] = torch.zeros(32)  # of the half that sampling doesn't need
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "global_step": 2, "state_dict": weights}, folder / "model.ckpt")
    settings = {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


@dataclass(frozen=True)
class Case:
    num_inference_steps: int = 10
    guidance_scale: float = 3.0
    eta: float = 0.0
    seed: int = 0
    class_labels: tuple[int, ...] = (3,)
    num_images_per_label: int = 1
    height: int = 8
    width: int = 8
    cache_interval: int = 0
    cache_branch_id: int = 0
    image: bool = False

    @property
    def name(self):
        cached = f"interval{self.cache_interval}_branch{self.cache_branch_id}" if self.cache_interval else "uncached"
        labels = "_".join(map(str, self.class_labels))
        return (
            f"{self.num_inference_steps}steps_scale{self.guidance_scale:g}_eta{self.eta:g}_labels_{labels}"
            f"_x{self.num_images_per_label}_{self.height}x{self.width}_{cached}"
        ).replace(".", "p")

    @property
    def settings(self):
        settings = asdict(self)
        del settings["image"]
        return settings | {"class_labels": list(self.class_labels)}


def cases():
    plain = Case()
    yield replace(plain, image=True)
    for branch in range(4):
        for interval in (2, 3):
            yield replace(plain, cache_interval=interval, cache_branch_id=branch)
    yield replace(plain, cache_interval=5)
    unguided = replace(plain, guidance_scale=1.0)
    stochastic = replace(plain, eta=0.7, guidance_scale=1.5)
    several = replace(
        plain, class_labels=(9, 0, 10), num_images_per_label=2, height=12, width=16, num_inference_steps=6
    )
    for case in unguided, stochastic, several:
        yield replace(case, image=True)
        yield replace(case, cache_interval=2, cache_branch_id=0)
        yield replace(case, cache_interval=3, cache_branch_id=2)
    yield replace(plain, guidance_scale=0.0)  # guided too: by nothing but the unconditional half
    yield replace(plain, num_inference_steps=7)  # of which 8 are made
    yield replace(plain, num_inference_steps=7, cache_interval=3, cache_branch_id=1)


def record(case, model):
    generator = torch.Generator().manual_seed(case.seed)
    labels = torch.tensor(case.class_labels).repeat_interleave(case.num_images_per_label)
    latents = torch.randn(len(labels), 3, case.height, case.width, generator=generator)
    step_latents, timesteps, full_steps = model.sample(
        labels,
        latents,
        case.num_inference_steps,
        case.eta,
        case.guidance_scale,
        lambda shape: torch.randn(shape, generator=generator),
        case.cache_interval,
        case.cache_branch_id,
    )
    result = case.settings | dict(
        class_labels=torch.tensor(case.class_labels),
        timesteps=timesteps,
        step_latents=step_latents,
        latents=step_latents[-1].clone(),
        full_calls=full_steps,
        command=COMMAND,
        versions=versions(),
    )
    if case.image:
        result["image"] = model.decode(result["latents"])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    args = parser.parse_args()
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the recorded values' last bits don't depend on the machine's cores
    model = tiny_model()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(model, Path(folder))
        export(folder, args.out / "packages/ldm", storage="float16", force=True)
    results = {case.name: record(case, model) for case in cases()}
    save_results(results, {case.name: case.settings for case in cases()}, args.out / "class_conditional", COMMAND)


if __name__ == "__main__":
    main()
