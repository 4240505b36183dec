"""Tests of `deepcache generate` and the small examples as a user runs them: test_generate.py build/bin

Latents are compared with those of the live Python pipelines under DeepCache's own helper.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import diffusers
import numpy as np
import torch
from DeepCache import DeepCacheSDHelper
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
from packages import accept  # noqa: E402

from export import quiet  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402

BIN = None
PACKAGES = ROOT / "tests/data/packages"


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def half_mask(height, width):
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, width // 2 :] = 255
    return Image.fromarray(mask)


def as_tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


class GenerateTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.image, self.mask = picture(64, 80), half_mask(64, 80)
        self.image.save(self.folder / "i.png")
        self.mask.save(self.folder / "m.png")
        self.inputs = {"i.png", "m.png"}

    def run_program(self, name, *arguments):
        command = [BIN / name, *arguments]
        return subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)

    def generate(self, model, *arguments):
        return self.run_program("deepcache", "generate", "-m", PACKAGES / model, "-p", "red heart", *arguments)

    def latents(self, model, *arguments):
        """As the originals cache: they reuse features as they are."""
        flags = "--steps", 8, "--save-latents", "l.pt", "--forecast-order", 0
        result = self.generate(model, *flags, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return torch.load(self.folder / "l.pt")


class ParityTest(GenerateTest):
    @classmethod
    def setUpClass(cls):
        quiet()
        torch.set_num_threads(1)

    def python(self, model, name, scheduler, branch=0, interval=3, **arguments):
        """Latents of diffusers' pipeline `name` over the components of a tiny one."""
        pipe = getattr(diffusers, name).from_pipe(tiny_pipeline(model))
        pipe.set_progress_bar_config(disable=True)
        folder = PACKAGES / model / "scheduler"
        pipe.scheduler = getattr(diffusers, scheduler).from_config(
            diffusers.DDIMScheduler.from_pretrained(folder).config
        )
        helper = DeepCacheSDHelper(pipe=pipe)
        helper.set_params(cache_interval=interval, cache_branch_id=branch)
        helper.enable()
        try:
            return pipe(
                "red heart",
                num_inference_steps=8,
                generator=torch.Generator().manual_seed(42),
                output_type="latent",
                **arguments,
            ).images
        finally:
            helper.disable()

    def expect_close(self, actual, expected):
        self.assertEqual(actual.shape, expected.shape)
        self.assertLess(((actual - expected).norm() / expected.norm()).item(), 1e-4)

    def test_image_to_image(self):
        for model, prefix in ("sd1", "StableDiffusion"), ("sdxl", "StableDiffusionXL"):
            expected = self.python(
                model, f"{prefix}Img2ImgPipeline", "EulerDiscreteScheduler", image=as_tensor(self.image), strength=0.75
            )
            actual = self.latents(model, "-i", "i.png", "--strength", 0.75, "--scheduler", "euler")
            self.expect_close(actual, expected)

    def test_inpainting(self):
        for model in "sd1", "sd1_inpaint":
            expected = self.python(
                model,
                "StableDiffusionInpaintPipeline",
                "DDIMScheduler",
                branch=2,
                image=self.image,
                mask_image=self.mask,
                height=64,
                width=80,
            )
            actual = self.latents(model, "-i", "i.png", "--mask", "m.png", "--cache-branch-id", 2)
            self.expect_close(actual, expected)

    def test_refiner(self):
        # Each of the two begins with a full step and counts its own.
        latents = self.python(
            "sdxl", "StableDiffusionXLPipeline", "DDIMScheduler", height=64, width=80, denoising_end=0.6
        )
        expected = self.python(
            "sdxl_refiner", "StableDiffusionXLImg2ImgPipeline", "DDIMScheduler", image=latents, denoising_start=0.6
        )
        actual = self.latents(
            "sdxl",
            "-W",
            80,
            "-H",
            64,
            "--refine",
            PACKAGES / "sdxl_refiner",
            "--refiner-start",
            0.6,
            "--report",
            "r.json",
        )
        self.expect_close(actual, expected)
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual([step["mode"] for step in report["steps"]], ["full", "cached", "cached", "full"] * 2)
        self.assertEqual(len({step["timestep"] for step in report["steps"]}), 8)

    def test_inpainting_and_refiner(self):
        # What is kept stays as it was, in both of them.
        pictures = dict(image=self.image, mask_image=self.mask, height=64, width=80, strength=1.0)
        name = "StableDiffusionXLInpaintPipeline"
        latents = self.python("sdxl", name, "DDIMScheduler", **pictures, denoising_end=0.6)
        expected = self.python(
            "sdxl_refiner", name, "DDIMScheduler", **pictures | dict(image=latents), denoising_start=0.6
        )
        pair = "--refine", PACKAGES / "sdxl_refiner", "--refiner-start", 0.6
        actual = self.latents("sdxl", "-i", "i.png", "--mask", "m.png", "--strength", 1, "--cfg-scale", 7.5, *pair)
        self.expect_close(actual, expected)
        self.expect_close(actual[..., :5], latents[..., :5])


class OutputTest(GenerateTest):
    def test_images_have_the_size_asked_for_or_their_own(self):
        picture(70, 90).save(self.folder / "odd.png")
        half_mask(70, 90).save(self.folder / "mask.png")
        for arguments, size in ((), (88, 64)), (("-W", 48, "-H", 40), (48, 40)), (("--mask", "mask.png"), (88, 64)):
            self.latents("sd1", "-i", "odd.png", *arguments, "-o", "o.png")
            with Image.open(self.folder / "o.png") as image:
                self.assertEqual(image.size, size)

    def test_what_is_kept_is_kept(self):
        self.latents("sd1", "-i", "i.png", "--mask", "m.png", "-o", "o.png", "--report", "r.json")
        request = json.loads((self.folder / "r.json").read_text())["request"]
        self.assertEqual((request["strength"], request["mask"]), (1.0, True))
        other = self.latents("sd1", "-i", "i.png", "--mask", "m.png", "-n", "sun")
        first = torch.load(self.folder / "l.pt")
        self.assertTrue(torch.equal(first[..., :5], other[..., :5]))

    def test_compare_runs_both_models_of_a_pair(self):
        result = self.generate(
            "sdxl", "--steps", 6, "--refiner", PACKAGES / "sdxl_refiner", "--compare", "--contact-sheet", "c.png"
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, "faster, PSNR")
        self.assertLessEqual({"c.png", "output.png", "output-uncached.png"}, {f.name for f in self.folder.iterdir()})

    def test_a_tuned_policy(self):
        size = "-W", 64, "-H", 64, "--scheduler", "ddim"
        tune = "deepcache", "tune", "-m", PACKAGES / "sd1", "-p", "red heart", "-p", "sun", "--steps", 5, *size
        result = self.run_program(*tune, "--full-steps", 2, "-o", "policy.json", "--progress", "tries.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        policy = json.loads((self.folder / "policy.json").read_text())
        self.assertEqual((policy["num_branches"], policy["num_steps"], len(policy["full_steps"])), (12, 5, 2))
        run = *size, "--cache-policy", "policy.json", "--report", "r.json"
        result = self.generate("sd1", "--steps", 5, *run)
        self.assertEqual(result.returncode, 0, result.stderr)
        steps = json.loads((self.folder / "r.json").read_text())["steps"]
        self.assertEqual([s["index"] for s in steps if s["mode"] == "full"], policy["full_steps"])

        for arguments, message in (
            (("sd1", "--steps", 6, *run), "runs of 5 calls of the UNet, got a run of 6"),
            (("one_layer", "--steps", 5, *run), "for a UNet of 12 branches, got one of 8"),
        ):
            result = self.generate(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)
        for outputs, message in (
            (("-o", "none/policy.json"), "can't write none/policy.json"),
            (("--progress", "policy.json"), "two outputs would have the name policy.json"),
        ):
            result = self.run_program(*tune, "--full-steps", 2, *outputs)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)
        result = self.run_program(*tune, "--speedup", 1000)
        self.assertEqual(result.returncode, 3)
        self.assertIn("can't be reached; the best is", result.stderr)
        self.assertEqual(self.run_program(*tune).returncode, 2)

    def test_a_package_s_own_policy(self):
        package = self.folder / "package"
        shutil.copytree(PACKAGES / "sd1", package)
        own = {
            "format_version": 2, "num_branches": 12, "cache_branch_id": 0, "forecast_order": 1,
            "scheduler": "DDIMScheduler", "num_inference_steps": 5, "num_steps": 5, "full_steps": [0, 1, 4],
        }  # fmt: skip
        (package / "policy.json").write_text(json.dumps(own))
        generate, txt2img = ("deepcache", "generate"), ("txt2img",)
        as_tuned = {"--steps": 5, "--scheduler": "ddim", "--report": "r.json"}
        for program, flags, full in (
            (generate, {}, [0, 1, 4]),
            (txt2img, {}, [0, 1, 4]),
            (generate, {"--eta": 0.5}, [0, 1, 4]),
            (generate, {"--cache-interval": 3}, [0, 3]),
            (txt2img, {"--skip-mode": "list", "--full-steps": "0,2"}, [0, 2]),
            (txt2img, {"--skip-mode": "even", "--cache-interval": 2}, [0, 2, 3]),
            (generate, {"--steps": 6}, [0, 3]),
            (generate, {"--scheduler": "unipc"}, [0, 3]),
            (generate, {"-i": "i.png", "--strength": 0.8}, [0, 3]),
            (generate, {"--refiner": PACKAGES / "sd2"}, [0, 3, 4]),  # of four and one
        ):
            flags = [part for pair in (as_tuned | flags).items() for part in pair]
            result = self.run_program(*program, "-m", package, "-p", "sun", "-W", 64, "-H", 64, *flags)
            self.assertEqual(result.returncode, 0, result.stderr)
            steps = json.loads((self.folder / "r.json").read_text())["steps"]
            self.assertEqual([s["index"] for s in steps if s["mode"] == "full"], full, flags)
        (package / "policy.json").write_text("{}")
        result = self.run_program("txt2img", "-m", package, "-p", "sun")
        self.assertEqual(result.returncode, 2)
        self.assertIn("policy.json", result.stderr)

    def test_where_caching_changes_pictures_more(self):
        for arguments, message in (
            (("--scheduler", "euler_a", "--steps", 10), "the scheduler adds noise"),
            (("--scheduler", "ddim", "--steps", 10, "--eta", 0.5), "the scheduler adds noise"),
            (("--scheduler", "ddim", "--steps", 9), "of 9 calls of the UNet"),
        ):
            result = self.generate("sd1", *arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual(result.stderr.count(message), 1)
            result = self.generate("sd1", *arguments, "--strict")
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)
            result = self.generate("sd1", *arguments, "--strict", "--no-cache")
            self.assertEqual((result.returncode, result.stderr), (0, ""))
        result = self.generate("sd1", "--scheduler", "ddim", "--steps", 10, "--strict")
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_ways_side_by_side(self):
        size = "-W", 64, "-H", 64, "--scheduler", "ddim", "--steps", 4
        tune = "deepcache", "tune", PACKAGES / "sd1", "-p", "sun", "-p", "red heart", *size
        self.assertEqual(self.run_program(*tune, "--full-steps", 2).returncode, 0)
        compare = "deepcache", "compare", PACKAGES / "sd1", "-p", "red heart", *size
        result = self.run_program(
            *compare, "--intervals", "2,3", "--tolerances", 0.1, "--cache-policy", "policy.json", "--report", "r.json",
            "--contact-sheet", "c.png",
        )  # fmt: skip
        self.assertEqual(result.returncode, 0, result.stderr)
        ways = json.loads((self.folder / "r.json").read_text())["ways"]
        kinds = ["full", "DeepCache", "DeepCache", "forecast", "forecast", "even", "output", "output", "adaptive"]
        kinds += ["tuned", "fewer steps"]
        self.assertEqual([way["kind"] for way in ways][: len(kinds)], kinds)
        self.assertEqual([way["full_steps"] for way in ways][:8], [4, 2, 2, 2, 2, 2, 2, 2])
        for way in ways:
            self.assertRegex(result.stdout, rf"(?m)^{way['name']} +\d")
        page = (self.folder / "comparison.html").read_text()
        self.assertEqual(page.count("<img"), len(ways))
        with Image.open(self.folder / "c.png") as image:
            self.assertGreater(image.width, 128 * len(ways))

        for arguments, message in (
            (("--intervals", 1), "intervals must be 2 or above, got 1"),
            (("--tolerances", 2), "tolerance must be above 0 and below 1, got 2"),
            (("--report", "same", "-o", "same"), "two outputs would have the name same"),
            (("-o", "none/page.html"), "none"),
            (("--contact-sheet", "c.jpg"), 'pictures are written as .png, got "c.jpg"'),
            (("--prompt-batch", 2), "--prompt-batch"),
        ):
            result = self.run_program(*compare, *arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertIn(message, result.stderr)

    def test_a_model_with_a_slash_at_its_end_has_its_name(self):
        command = "deepcache", "generate", "-m", f"{PACKAGES}/sd1/", "-p", "sun", "--steps", 2, "--report", "r.json"
        self.assertEqual(self.run_program(*command).returncode, 0)
        self.assertEqual(json.loads((self.folder / "r.json").read_text())["request"]["model"], "sd1")

    def test_reports_say_what_was_asked(self):
        self.latents(
            "sdxl", "--prompt-2", "sun", "--negative-prompt", "blue", "--negative-prompt-2", "moon", "--clip-skip", 1,
            "--guidance-rescale", 0.7, "--eta", 0.5, "--scheduler", "ddim", "--report", "r.json",
        )  # fmt: skip
        request = json.loads((self.folder / "r.json").read_text())["request"]
        expected = {
            "prompt_2": "sun", "negative_prompt": "blue", "negative_prompt_2": "moon", "clip_skip": 1,
            "guidance_rescale": 0.7, "eta": 0.5,
        }  # fmt: skip
        self.assertEqual({key: request[key] for key in expected}, expected)
        for flag, other in ("tiling", "slicing"), ("slicing", "tiling"):
            self.latents("sd1", f"--vae-{flag}", "--report", "r.json")
            request = json.loads((self.folder / "r.json").read_text())["request"]
            self.assertTrue(request[f"vae_{flag}"])
            self.assertNotIn(f"vae_{other}", request)

    def test_any_model_of_the_same_latents_goes_on(self):
        alone = self.latents("sd1")
        pair = self.latents("sd1", "--refiner", PACKAGES / "sd2", "--report", "r.json")
        self.assertFalse(torch.equal(alone, pair))
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual(report["request"]["refiner"], {"start": 0.8, "scheduler": "DDIMScheduler"})

    def test_model_types_of_the_original(self):
        for model, name, arguments in (
            ("sd1", "sd1.5", ()),
            ("sd1", "sd-img2img", ("-i", "i.png")),
            ("sd1_inpaint", "sd-inpaint", ("-i", "i.png", "--mask", "m.png")),
            ("sdxl", "sdxl", ()),
            ("sd2", "sd2.1", ()),
            ("sdxl", "sdxl-inpaint", ("-i", "i.png", "--mask", "m.png")),
        ):
            self.latents(model, "--model_type", name, *arguments)

    def test_examples(self):
        model = PACKAGES / "sd1"
        for output, program, *arguments in (
            ("a.png", "img2img", model, "i.png", "panda", "a.png"),
            ("b.png", "inpaint", model, "i.png", "m.png", "panda", "b.png"),
            ("c.pt", "own_loop", ROOT / "models/emoji", 3, "c.pt"),
            ("d.apng", "img2vid", PACKAGES / "svd", "i.png", "d.apng", 64, 64),
            ("frames", "txt2vid", PACKAGES / "text_to_video_zero", "panda", "frames"),
            ("e.png", "class2img", PACKAGES / "ldm", 3, "e.png"),
            ("f-0.png", "unconditional", PACKAGES / "ddpm", 1, "f"),
        ):
            result = self.run_program(program, *arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertTrue((self.folder / output).exists())
            self.assertEqual(self.run_program(program).returncode, 2)
            result = self.run_program(program, "absent", *arguments[1:])
            self.assertEqual(result.returncode, 2)
            self.assertIn("absent", result.stderr)
        for message, program, *arguments in (
            ('HEIGHT and WIDTH must be whole numbers, got "64x"', "img2vid", "absent", "i.png", "d.apng", 64, "64x"),
            ("usage: unconditional PACKAGE COUNT OUTPUT", "unconditional", "absent", "2x", "f"),
        ):
            result = self.run_program(program, *arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(message, result.stderr)


class BadInputTest(GenerateTest):
    def expect_refused(self, message, model, *arguments):
        before = sorted(self.folder.iterdir())
        result = self.generate(model, *arguments)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertRegex(result.stderr, message)
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def test_pictures(self):
        (self.folder / "text.png").write_text("hello")
        half_mask(64, 64).save(self.folder / "small.png")
        Image.new("RGB", (2056, 2056)).save(self.folder / "large.png")
        Image.new("1", (16384, 16384)).save(self.folder / "huge.png")
        for message, *arguments in (
            ("no such file: absent.png", "-i", "absent.png"),
            ("text.png is neither a PNG nor a JPEG image", "-i", "text.png"),
            ("text.png is neither a PNG nor a JPEG image", "-i", "i.png", "--mask", "text.png"),
            ("i.png has 80x64 pixels, its mask small.png must have as many, got 64x64",
             "-i", "i.png", "--mask", "small.png"),
            ("large.png has 2056x2056 pixels: say which width and height", "-i", "large.png"),
            ("huge.png has 16384x16384 pixels; the most", "-i", "huge.png"),
            ("requires", "--mask", "m.png"),
            ("strength must be above 0, to 1, got 1.5", "-i", "i.png", "--strength", 1.5),
            ("strength needs an image", "--strength", 0.5),
            ("width must be a positive multiple of 8", "-i", "i.png", "-W", 50),
        ):  # fmt: skip
            self.expect_refused(message, "sd1", *arguments)

    def test_flags_that_a_family_has_no_use_for(self):
        self.expect_refused("this model has one", "sd1", "--prompt-2", "x")
        self.expect_refused("needs an image and a mask", "sd1_inpaint")
        self.expect_refused("needs a mask too", "sd1_inpaint", "-i", "i.png")
        self.expect_refused("this model refines pictures", "sdxl_refiner")
        self.expect_refused("requires", "sdxl", "--refiner-start", 0.5)
        self.expect_refused('family "controlnet", which isn\'t one that paints', "controlnet_sd1")
        self.expect_refused('cuda_graphs must be false unless .* got "cpu"', "sd1", "--cuda-graphs")
        self.expect_refused("eta is an option of DDIM", "sd1", "--eta", 0.5, "--scheduler", "euler")

    def test_model_types(self):
        self.expect_refused("sdxl is a model of type sdxl, not sd1.5", "sdxl", "--model_type", "sd1.5")
        self.expect_refused(
            "sd-img2img has no use for --mask",
            "sd1", "--model_type", "sd-img2img", "-i", "i.png", "--mask", "m.png",
        )  # fmt: skip
        self.expect_refused("sd-img2img needs --image", "sd1", "--model_type", "sd-img2img")
        self.expect_refused("sd-inpaint needs --image and --mask", "sd1", "--model_type", "sd-inpaint", "-i", "i.png")
        self.expect_refused("(?s)model_type.*magic.*", "sd1", "--model_type", "magic")

    def test_a_policy_is_instead_of_other_flags(self):
        (self.folder / "policy.json").write_text("{}")
        for flag in "--cache-interval", "--cache-branch-id", "--forecast-order", "--full-last":
            self.expect_refused(flag + " excludes --cache-policy", "sd1", "--cache-policy", "policy.json", flag, 1)

    def test_refiners(self):
        other = self.folder / "other"
        shutil.copytree(PACKAGES / "sdxl_refiner", other)
        manifest = other / "deepcache.json"
        listed = json.loads(manifest.read_text())
        listed["files"]["unet/model.pt2"] = listed["files"]["unet/model.pt"]  # a compiled UNet, which isn't there
        manifest.write_text(json.dumps(listed))
        pair = "sdxl", "--refiner", "other"
        self.expect_refused("no such file: other/unet/model.pt2", *pair, "--trust-native-code")
        config = other / "vae/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.5}))
        accept(other, "vae/config.json")
        self.expect_refused("the refiner can't go on with the model's latents", *pair)
        self.expect_refused("no such folder: absent", "sdxl", "--refiner", "absent")
        for start in 0, 1, 1.5:
            self.expect_refused(
                "refiner_start must be above 0 and below 1",
                "sdxl", "--refiner", PACKAGES / "sdxl_refiner", "--refiner-start", start,
            )  # fmt: skip

    def test_subcommands(self):
        for arguments in [], ["magic"], ["generate"], ["generate", "-m", PACKAGES / "sd1"]:
            self.assertEqual(self.run_program("deepcache", *arguments).returncode, 2)
        self.assertEqual(self.run_program("deepcache", "generate", "--help").returncode, 0)


if __name__ == "__main__":
    BIN = Path(sys.argv.pop(1)).resolve()
    unittest.main()
