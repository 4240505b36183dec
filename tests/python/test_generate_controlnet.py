"""Tests of ControlNets in `deepcache generate` and in the example: test_generate_controlnet.py build/bin

Latents are compared with those of the live Python pipelines under DeepCache's own helper.
"""

import json
import sys
import unittest
from pathlib import Path

import diffusers
import test_generate
import torch
from DeepCache import DeepCacheSDHelper
from PIL import Image
from test_generate import PACKAGES, GenerateTest, as_tensor, picture, quiet, tiny_pipeline

from controlnet import tiny_controlnet


class ControlNetTest(GenerateTest):
    @classmethod
    def setUpClass(cls):
        quiet()
        torch.set_num_threads(1)

    def setUp(self):
        super().setUp()
        picture(64, 80, seed=1).save(self.folder / "c.png")

    def flags(self, *packages, image="c.png"):
        return [flag for name in packages for flag in ("--controlnet", PACKAGES / name, "--control-image", image)]

    def python(self, name, model, controlnets, **arguments):
        components = tiny_pipeline(model).components
        components.pop("safety_checker", None)
        pipe = getattr(diffusers, name)(**components, controlnet=controlnets, **arguments.pop("settings"))
        pipe.set_progress_bar_config(disable=True)
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=3, cache_branch_id=0)
        helper.enable()
        generator = torch.Generator().manual_seed(42)
        return pipe("red heart", num_inference_steps=8, generator=generator, output_type="latent", **arguments).images

    def expect_close(self, actual, expected):
        self.assertEqual(actual.shape, expected.shape)
        self.assertLess(((actual - expected).norm() / expected.norm()).item(), 1e-4)

    def test_text_to_image(self):
        for prefix, model, settings in (
            ("StableDiffusion", "sd1", dict(safety_checker=None)),
            ("StableDiffusionXL", "sdxl", dict(add_watermarker=False)),
        ):
            control = as_tensor(Image.open(self.folder / "c.png"))
            expected = self.python(
                f"{prefix}ControlNetPipeline",
                model,
                tiny_controlnet(f"controlnet_{model}"),
                image=control,
                controlnet_conditioning_scale=0.75,
                control_guidance_start=0.125,
                control_guidance_end=0.5,
                settings=settings,
                guidance_scale=5.0,
            )
            numbers = "--control-scale", 0.75, "--control-start", 0.125, "--control-end", 0.5
            self.expect_close(
                self.latents(
                    model, *self.flags(f"controlnet_{model}"), *numbers, "--cfg-scale", 5, "--report", "r.json"
                ),
                expected,
            )
            request = json.loads((self.folder / "r.json").read_text())["request"]
            self.assertEqual((request["width"], request["height"]), (80, 64))
            self.assertEqual(
                request["control_images"],
                [{"conditioning_scale": 0.75, "guidance_start": 0.125, "guidance_end": 0.5}],
            )

    def test_two_of_them_with_an_image(self):
        controls = [as_tensor(Image.open(self.folder / name)) for name in ("c.png", "i.png")]
        packages = "controlnet_sd1", "controlnet_sd1_bgr"
        expected = self.python(
            "StableDiffusionControlNetImg2ImgPipeline",
            "sd1",
            [tiny_controlnet(name) for name in packages],
            image=as_tensor(self.image),
            control_image=controls,
            controlnet_conditioning_scale=[1.0, 0.5],
            strength=0.75,
            settings=dict(safety_checker=None),
        )
        flags = self.flags(packages[0]) + self.flags(packages[1], image="i.png")
        scales = "--control-scale", 1, "--control-scale", 0.5
        self.expect_close(self.latents("sd1", *flags, *scales, "-i", "i.png", "--strength", 0.75), expected)

    def test_sizes(self):
        picture(70, 90).save(self.folder / "odd.png")
        for arguments, size in ((), (88, 64)), (("-W", 48, "-H", 40), (48, 40)), (("-i", "i.png"), (80, 64)):
            self.latents("sd1", *self.flags("controlnet_sd1", image="odd.png"), *arguments, "-o", "o.png")
            with Image.open(self.folder / "o.png") as image:
                self.assertEqual(image.size, size)

    def test_refiners_have_none(self):
        self.latents("sdxl", *self.flags("controlnet_sdxl"), "--refiner", PACKAGES / "sdxl_refiner")

    def test_example(self):
        arguments = PACKAGES / "sd1", PACKAGES / "controlnet_sd1", "c.png", "panda", "o.png"
        result = self.run_program("controlnet", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue((self.folder / "o.png").is_file())
        self.assertEqual(self.run_program("controlnet").returncode, 2)
        result = self.run_program("controlnet", PACKAGES / "sd2", *arguments[1:])
        self.assertEqual(result.returncode, 2)
        self.assertIn("is for another UNet", result.stderr)

    def test_bad_input(self):
        (self.folder / "text.png").write_text("hello")
        Image.new("RGB", (2056, 2056)).save(self.folder / "large.png")
        one = self.flags("controlnet_sd1")
        for message, model, *arguments in (
            ("is for another UNet: its encoder_hidden_states has width 32, this UNet's has 48", "sd2", *one),
            ("is for another UNet: its encoder_hidden_states has width 80, this UNet's has 32",
             "sd1", *self.flags("controlnet_sdxl")),
            ('of family "stable-diffusion", no ControlNet', "sd1", *self.flags("sd2")),
            ("no such folder: .*absent", "sd1", *self.flags("absent")),
            ("one control image for each of the pipeline's 1 ControlNets, got 0", "sd1", *one[:2]),
            ("1 ControlNets, got 2", "sd1", *one, "--control-image", "c.png"),
            ("requires", "sd1", "--control-image", "c.png"),
            ("requires", "sd1", *one[:2], "--control-scale", 0.5),
            ("text.png is neither a PNG nor a JPEG", "sd1", *self.flags("controlnet_sd1", image="text.png")),
            ("no such file: absent.png", "sd1", *self.flags("controlnet_sd1", image="absent.png")),
            ("large.png has 2056x2056 pixels: say which width and height",
             "sd1", *self.flags("controlnet_sd1", image="large.png")),
            ("--control-scale must be given for each of the 1 control images, or not at all; got 2",
             "sd1", *one, "--control-scale", 1, "--control-scale", 2),
            ("guidance_start must be 0 or above, and below guidance_end", "sd1", *one, "--control-start", 1),
            ("got 0 and 1.5", "sd1", *one, "--control-end", 1.5),
        ):  # fmt: skip
            result = self.generate(model, *arguments)
            self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
            self.assertRegex(result.stderr, message)


if __name__ == "__main__":
    test_generate.BIN = Path(sys.argv.pop(1)).resolve()
    unittest.main()
