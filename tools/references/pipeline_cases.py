"""Which runs pipelines.py records."""

from dataclasses import asdict, dataclass, field

import torch

from prompts import LONG

PROMPTS = ["red heart!", "panda, face", "a green apple & 2 flowers"]
BRANCHES = {
    "sd1": 12,
    "sd2": 12,
    "one_layer": 8,
    "three_layers": 16,
    "sd1_bfloat16": 12,
    "sdxl": 9,
    "sdxl_float16": 9,
    "sd1_inpaint": 12,
    "sdxl_inpaint": 9,
    "sdxl_refiner": 9,
    "lora": 6,
    "textual_inversion": 6,
    "ddpm": 12,
    "ddpm_grey": 6,
    "svd": 6,
    "sd2_base": 12,
}


@dataclass(frozen=True)
class Case:
    variant: str
    scheduler: str = "DDIM"
    num_inference_steps: int = 8
    guidance_scale: float | None = 5.0  # None: the pipeline's own default
    cache_interval: int = 0
    cache_branch_id: int = 0
    count: str = "calls"
    batch: int = 1
    height: int = 8
    width: int = 8
    prompts: tuple[str, ...] = ()  # PROMPTS, if none
    negative_prompt: str = ""
    seed: int = 1
    seeds: tuple[int, ...] = ()
    eta: float = 0.0
    image: bool = False  # whether the decoded picture is recorded
    images: int = 0  # to begin with
    masks: int = 0
    tiling: bool = False  # the VAE's, and slicing
    image_of: str = ""  # the case whose last latents are the image
    options: dict = field(default_factory=dict)  # further arguments of the pipeline
    label: str = ""  # of the options, in the name

    @property
    def name(self):
        parts = [
            self.variant,
            self.scheduler.lower().replace("++", "pp"),
            f"{self.batch}x{self.height}x{self.width}",
            f"{self.num_inference_steps}steps",
        ]
        parts += ["unguided"] * (self.guidance_scale == 1) + ["negative"] * bool(self.negative_prompt)
        parts += [f"eta{self.eta:g}".replace(".", "_")] * (self.eta > 0)
        parts += [f"{len(self.seeds)}seeds"] * bool(self.seeds) + [f"{self.images}images"] * (self.images > 1)
        parts += ["img2img"] * bool(self.images or self.image_of) * (not self.masks) + ["inpaint"] * bool(self.masks)
        parts += [f"{self.masks}masks"] * (self.masks > 1) + ["handover"] * bool(self.image_of)
        parts += ["tiling"] * self.tiling + [self.label] * bool(self.label)
        parts += (
            [f"interval{self.cache_interval}", f"branch{self.cache_branch_id}"] if self.cache_interval else ["uncached"]
        )
        return "_".join(parts + ["timestep"] * (self.count == "timestep"))

    @property
    def settings(self):
        """Without those that say nothing."""
        optional = (
            "prompts",
            "seeds",
            "eta",
            "options",
            "label",
            "guidance_scale",
            "images",
            "masks",
            "tiling",
            "image_of",
        )
        return {key: value for key, value in asdict(self).items() if key not in optional or value}

    def is_full(self, step, calls):
        """Whether a step of so many is a full one."""
        return step % self.cache_interval == 0

    @property
    def is_xl(self):
        return self.variant.startswith("sdxl")

    def generator(self):
        """New generators, as the pipeline takes them."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds or (self.seed,)]
        return generators if self.seeds else generators[0]


def cases():
    for variant in "sd1", "sd2", "one_layer", "three_layers":
        branches = BRANCHES[variant]
        yield Case(variant, image=True)
        yield Case(variant, scheduler="PLMS")
        for branch in range(branches):
            yield Case(variant, cache_interval=3, cache_branch_id=branch, image=branch == 0)
        yield Case(variant, scheduler="PLMS", cache_interval=3, cache_branch_id=1, image=True)
        for count in (
            "calls",
            "timestep",
        ):  # which differ with interval 2 only: the repeated timestep is the third call, index 2 or 1
            yield Case(variant, scheduler="PLMS", cache_interval=2, cache_branch_id=0, count=count)
        for size in (12, 20), (13, 17):  # divisible by the UNet's strides in no level but the first two; in none
            shape = dict(batch=3, height=size[0], width=size[1])
            yield Case(variant, **shape)
            yield Case(variant, cache_interval=2, cache_branch_id=branches // 2, **shape)
        yield Case(variant, guidance_scale=1.0)
        yield Case(variant, guidance_scale=1.0, cache_interval=3)
    yield Case("sd1", num_inference_steps=10)
    yield Case("sd1", scheduler="PLMS", num_inference_steps=10)
    for scheduler, count in ("DDIM", "calls"), ("PLMS", "calls"), ("PLMS", "timestep"):
        for interval in (1, 2, 3, 5, 7):
            yield Case(
                "sd1",
                scheduler=scheduler,
                count=count,
                cache_interval=interval,
                cache_branch_id=2,
                num_inference_steps=10,
            )
    yield Case("sd1", scheduler="PLMS", batch=3, height=13, width=17, cache_interval=3, cache_branch_id=4, image=False)
    yield Case("sd1", height=13, width=17, cache_interval=5, cache_branch_id=0, image=True)
    yield Case("sd2", negative_prompt="blue!", cache_interval=2, cache_branch_id=0)
    for interval in (0, 3):
        yield Case("sd1", eta=0.5, cache_interval=interval)
        # Guidance multiplies rounding differences: at 5, other kernels would differ by half as much as caching does.
        yield Case("sd1_bfloat16", guidance_scale=2.0, cache_interval=interval, image=interval == 0)
    yield from options_cases("sd1", guidance_rescale=dict(guidance_rescale=0.7), clip_skip=dict(clip_skip=1))
    yield Case("sdxl", image=True)
    for branch in range(BRANCHES["sdxl"]):
        yield Case("sdxl", cache_interval=3, cache_branch_id=branch, image=branch == 0)
    yield Case("sdxl", scheduler="PLMS", cache_interval=2, cache_branch_id=1)
    yield Case("sdxl", guidance_scale=1.0)
    yield Case("sdxl", negative_prompt="blue!")
    for interval in (0, 5):
        yield Case("sdxl", batch=3, height=13, width=17, cache_interval=interval, cache_branch_id=interval)
    yield from options_cases(
        "sdxl",
        guidance_rescale=dict(guidance_rescale=0.7),
        clip_skip=dict(clip_skip=1),
        prompt_2=dict(prompt_2="panda", negative_prompt_2="sun"),
        sizes=dict(original_size=(64, 96), target_size=(80, 72), crops_coords_top_left=(8, 4)),
        negative_sizes=dict(
            negative_original_size=(32, 40), negative_target_size=(48, 56), negative_crops_coords_top_left=(2, 6)
        ),
    )
    yield Case("sd1", eta=1.0, batch=2, seeds=(7, 3), cache_interval=3)
    yield Case("sd1", scheduler="PLMS", batch=2, seeds=(7, 3))

    yield from scheduler_cases()
    yield from image_cases()
    yield from inpainting_cases()
    yield from refiner_cases()
    yield from prompt_cases()

    for scheduler in "DDIM", "PLMS", "euler":
        for interval in (0, 3):
            yield Case("sd2_base", scheduler=scheduler, cache_interval=interval, cache_branch_id=interval)
    for interval in (0, 2):
        arguments = dict(images=1, masks=1, cache_interval=interval, cache_branch_id=interval)
        yield from options_cases("sdxl_refiner", **arguments, strength=dict(strength=0.75))


def scheduler_cases():
    """Whole runs with the schedulers that have no fixed noise schedule or draw noise."""
    for scheduler in "euler", "heun", "dpm++_2m_karras", "unipc", "ddpm", "euler_a", "lcm", "dpm++_2m_sde":
        yield Case("sd1", scheduler=scheduler)
        yield Case("sd1", scheduler=scheduler, cache_interval=2, cache_branch_id=1)
    for variant in "sd2", "sdxl":
        for interval in (0, 3):
            yield Case(variant, scheduler="euler", cache_interval=interval)


def image_cases():
    """Image to image: the whole range of steps, or some of it."""
    # Tiles are 16 latents wide; guidance would multiply float16's rounding.
    yield Case("sd1", num_inference_steps=2, batch=2, height=17, width=30, tiling=True, image=True)
    yield from options_cases(
        "sd1",
        num_inference_steps=2,
        batch=2,
        height=17,
        width=30,
        tiling=True,
        images=2,
        strength=dict(strength=1.0),
    )
    yield Case("sdxl_float16", guidance_scale=2.0, image=True)
    yield from options_cases(
        "sdxl_float16", guidance_scale=2.0, images=1, cache_interval=3, strength=dict(strength=1.0)
    )
    yield Case("sd1", images=1, image=True)
    for interval in (0, 2):
        for scheduler in "DDIM", "PLMS", "euler", "heun", "dpm++_2m_karras", "unipc", "ddpm", "euler_a", "lcm":
            yield from options_cases(
                "sd1", scheduler=scheduler, images=1, cache_interval=interval, strength=dict(strength=0.6)
            )
    yield from options_cases("sd1", images=1, full=dict(strength=1.0))
    yield from options_cases("sd2", scheduler="euler", images=1, cache_interval=3, strength=dict(strength=0.7))
    shape = dict(height=13, width=17, cache_interval=2)
    yield Case("sd1", scheduler="euler", batch=2, images=1, **shape)
    yield Case("sd1", scheduler="euler", batch=2, images=2, **shape)
    yield Case("sd1", scheduler="euler_a", batch=2, images=1, seeds=(7, 3))
    yield Case("sd1", images=1, guidance_scale=None)
    yield Case("sdxl", images=1, image=True, guidance_scale=None)
    for interval in (0, 2):
        yield from options_cases("sdxl", images=1, cache_interval=interval, strength=dict(strength=0.75))
    sizes = dict(
        original_size=(64, 96),
        negative_original_size=(32, 40),
        crops_coords_top_left=(8, 4),
        negative_crops_coords_top_left=(2, 6),
    )
    yield from options_cases("sdxl", images=1, sizes=dict(strength=0.75) | sizes)


def inpainting_cases():
    """Inpainting: by blending, and with the UNets made for it."""
    for variant in "sd1", "sd1_inpaint", "sdxl", "sdxl_inpaint":
        yield Case(variant, images=1, masks=1, image=True, guidance_scale=None)
        for interval in (0, 3):
            yield from options_cases(
                variant,
                scheduler="euler_a",
                images=1,
                masks=1,
                cache_interval=interval,
                cache_branch_id=interval,
                strength=dict(strength=0.75),
            )
        yield Case(variant, scheduler="PLMS", images=1, masks=1, cache_interval=2, guidance_scale=1.0)
        yield Case(variant, batch=2, images=1, masks=2, height=13, width=17)
        yield Case(variant, scheduler="ddpm", batch=2, images=2, masks=1, seeds=(7, 3))
    yield from options_cases("sd1", scheduler="heun", images=1, masks=1, strength=dict(strength=0.5))
    yield from options_cases("sdxl", images=1, masks=1, full=dict(strength=1.0))


def refiner_cases():
    """SDXL and its refiner, one after the other; the refiner alone."""
    for scheduler in "DDIM", "euler", "heun":
        for interval in (0, 2):
            base = Case(
                "sdxl",
                scheduler=scheduler,
                cache_interval=interval,
                options=dict(denoising_end=0.6),
                label="denoising_end",
            )
            yield base
            for variant in "sdxl_refiner", "sdxl":
                yield Case(
                    variant,
                    scheduler=scheduler,
                    cache_interval=interval,
                    image_of=base.name,
                    options=dict(denoising_start=0.6),
                )
    yield from options_cases("sdxl", images=1, masks=1, part=dict(denoising_start=0.3, denoising_end=0.8))
    yield Case("sdxl_refiner", images=1, image=True, guidance_scale=None)
    for interval in (0, 2):
        yield from options_cases("sdxl_refiner", images=1, cache_interval=interval, strength=dict(strength=0.75))
    scores = dict(aesthetic_score=4.0, negative_aesthetic_score=1.0, original_size=(64, 96))
    crops = dict(crops_coords_top_left=(8, 4), negative_crops_coords_top_left=(2, 6))
    yield from options_cases("sdxl_refiner", images=1, scores=dict(strength=0.75) | scores | crops)


def prompt_cases():
    """Prompts that aren't short plain text, and what is exported for them."""
    weighting, chunks = dict(prompt_weighting=True), dict(max_prompt_chunks=3)
    concepts = dict(prompts=("a <cat>, <star> & (heart)",), negative_prompt="<cat>_2 face")
    weighted = dict(prompts=(LONG + "[panda] (<cat>:1.6)", "red (heart:1.5)"), negative_prompt="(blue!:0.5)", batch=2)
    for interval in (0, 3):
        cached = dict(cache_interval=interval, cache_branch_id=1)
        yield Case("lora", **cached)
        yield Case("textual_inversion", **concepts, **cached)
        yield Case("textual_inversion", **weighted, **cached, options=weighting | chunks, label="weighted_long")
    yield Case("sd1", negative_prompt="blue sky, " * 9, options=chunks, label="long")
    prompt_2 = dict(prompt_2="(panda:0.7), " * 9, negative_prompt_2="[moon]")
    options = dict(options=weighting | chunks | prompt_2 | dict(clip_skip=1), label="weighted_long")
    yield Case("sdxl", prompts=("a (red:1.5) heart",), negative_prompt="blue!", **options)


def options_cases(variant, **arguments):
    """A case for each dictionary among the arguments, with its name as label; the others are settings of all."""
    labelled = {name: value for name, value in arguments.items() if isinstance(value, dict)}
    settings = {name: value for name, value in arguments.items() if name not in labelled}
    for label, options in labelled.items():
        yield Case(variant, options=options, label=label, **settings)
