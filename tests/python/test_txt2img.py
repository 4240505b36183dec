"""Tests of the txt2img program as a user runs it: python tests/python/test_txt2img.py build/bin/txt2img

Its latents are compared with those of the live Python pipeline under DeepCache's own helper.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch
from DeepCache import DeepCacheSDHelper
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
from packages import accept  # noqa: E402

from export import export, quiet  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402

TXT2IMG = None
EMOJI = ROOT / "models/emoji"
TINY = ROOT / "tests/data/packages/sd1"


def run(folder, *arguments, model=TINY, prompt="red heart"):
    prompts = [] if prompt is None else ["-p", prompt]
    command = [TXT2IMG, "-m", model, *prompts, *arguments]
    return subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)


class Txt2ImgTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_well(self, *arguments, **options):
        result = run(self.folder, *arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def files(self):
        return sorted(file.name for file in self.folder.iterdir())


class OutputTest(Txt2ImgTest):
    def test_png_holds_the_picture_and_its_parameters(self):
        self.run_well("--steps", 4, "-n", "blue ❤", "-s", 7, "-o", "heart.png")
        self.assertEqual(self.files(), ["heart.png"])
        with Image.open(self.folder / "heart.png") as image:
            self.assertEqual((image.size, image.mode), ((128, 128), "RGB"))
            self.assertEqual(
                image.text["parameters"],
                "red heart\nNegative prompt: blue ❤\nSteps: 4, Sampler: DDIMScheduler, CFG scale: 7.5, Seed: 7, "
                'Size: 128x128, Model: sd1, DeepCache: "uniform, every 3 steps", DeepCache branch: 0',
            )
            request = json.loads(image.text["deepcache"])["request"]
            self.assertEqual((request["prompt"], request["seeds"]), ("red heart", [7]))

    def test_batch_and_several_prompts_are_numbered(self):
        self.run_well("-p", "panda", "--steps", 2, "-b", 2, "-W", 64, "-H", 96, "-o", "a.b.png")
        self.assertEqual(self.files(), [f"a.b-{i}.png" for i in range(1, 5)])
        with Image.open(self.folder / "a.b-4.png") as image:
            self.assertEqual(image.size, (64, 96))
            self.assertTrue(image.text["parameters"].startswith("panda\n"))
            self.assertIn("Batch size: 2, Batch pos: 1", image.text["parameters"])

    def test_prompts_of_a_file(self):
        (self.folder / "prompts.txt").write_text("red heart\n\ncafé ❤\nsun\n")
        self.run_well("--steps", 3, "--prompts-file", "prompts.txt", "--save-latents", "l.pt", prompt=None)
        alone = torch.load(self.folder / "l.pt")
        arguments = ("--prompts-file", "prompts.txt", "--prompt-batch", 2, "--save-latents", "l.pt", "-o", "o.png")
        printed = self.run_well("--steps", 3, *arguments, "--report", "r.json", prompt=None).stdout
        self.assertEqual([name for name in self.files() if name.startswith("o-")], ["o-1.png", "o-2.png", "o-3.png"])
        self.assertEqual(printed.count(" for 2 prompts"), 2)
        together = torch.load(self.folder / "l.pt")
        self.assertLess(((together - alone).norm() / alone.norm()).item(), 1e-4)
        reports = json.loads((self.folder / "r.json").read_text())
        self.assertEqual([report["request"]["prompt"] for report in reports], ["red heart", "café ❤", "sun"])
        with Image.open(self.folder / "o-2.png") as image:
            self.assertIn("café ❤\nSteps: 3, ", image.text["parameters"])

    def test_report(self):
        self.run_well(
            "--steps", 7, "--cache-interval", 3, "--cache-branch-id", 2, "--compare", "--contact-sheet", "sheet.png",
            "--report", "r.json", "-o", "o.png",
        )  # fmt: skip
        self.assertEqual(self.files(), ["o-uncached.png", "o.png", "r.json", "sheet.png"])
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual([s["mode"] for s in report["steps"]], ["full", "cached", "cached"] * 2 + ["full"])
        self.assertEqual([s["index"] for s in report["steps"]], list(range(7)))
        self.assertEqual([s["timestep"] for s in report["steps"]], [853, 711, 569, 427, 285, 143, 1])
        feature = 2 * 16 * 16 * 16 * 4  # bytes; two are held to forecast from, and the forecast
        self.assertEqual(
            report["cache"],
            {
                "interval": 3,
                "branch_id": 2,
                "forecast_order": 1,
                "policy": "uniform, every 3 steps",
                "bytes": 3 * feature,
            },
        )
        self.assertEqual((report["totals"]["full_steps"], report["totals"]["cached_steps"]), (3, 4))
        request = report["request"]
        self.assertEqual([request[k] for k in ("width", "prompt_weighting", "max_prompt_chunks")], [128, False, 1])
        full, cached = (np.asarray(Image.open(self.folder / name)) / 255 for name in ("o-uncached.png", "o.png"))
        psnr = -10 * np.log10(np.square(full - cached).mean())
        self.assertAlmostEqual(report["compare"]["psnr_db"], psnr, delta=1.5)  # that of the PNGs, which are rounded
        for key in "milliseconds_uncached", "speedup", "ssim":
            self.assertGreater(report["compare"][key], 0)

    def test_uncached_runs_are_full(self):
        self.run_well("--steps", 3, "--no-cache", "--report", "r.json", "-o", "o.png")
        report = json.loads((self.folder / "r.json").read_text())
        self.assertEqual([s["mode"] for s in report["steps"]], ["full"] * 3)
        self.assertEqual(report["cache"]["bytes"], 0)
        self.assertNotIn("compare", report)

    def test_no_progress_bar_in_a_pipe(self):
        self.assertEqual(self.run_well("--steps", 10).stderr, "")

    def test_a_progress_bar_on_a_terminal(self):
        try:
            ours, its = os.openpty()
        except OSError as error:
            self.skipTest(f"no pseudo-terminals here: {error}")
        command = [TXT2IMG, "-m", TINY, "-p", "x", "--steps", "2", "-o", self.folder / "o.png"]
        self.assertEqual(subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL, stderr=its).returncode, 0)
        os.close(its)
        shown = os.read(ours, 10000).decode()
        os.close(ours)
        self.assertIn("[" + "#" * 20 + " " * 20 + "] 1/2", shown)
        self.assertIn("[" + "#" * 40 + "] 2/2", shown)

    def test_threads_and_verbose(self):
        self.assertRegex(self.run_well("--steps", 1, "--threads", 1, "-v").stderr, "sd1: Float on cpu, 12 branches")

    def test_prompts_are_taken_as_they_are(self):
        for prompt in "[cat, dog]", "[cat|dog]", "cat, dog":
            self.run_well("--steps", 1, "--report", "r.json", prompt=prompt)
            self.assertEqual(json.loads((self.folder / "r.json").read_text())["request"]["prompt"], prompt)

    def test_small_pictures_have_no_ssim(self):
        self.run_well("--steps", 2, "--compare", "-W", 8, "-H", 8, "--report", "r.json")
        self.assertIsNone(json.loads((self.folder / "r.json").read_text())["compare"]["ssim"])

    def test_compare_warms_up_with_any_scheduler(self):
        package = self.folder / "prk"
        shutil.copytree(TINY, package)
        config = package / "scheduler/scheduler_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"skip_prk_steps": False}))
        accept(package, "scheduler/scheduler_config.json")
        self.run_well("--steps", 4, "--scheduler", "PNDMScheduler", "--compare", model=package)

    def test_given_latents_are_told(self):
        with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):  # as if saved from a GPU
            torch.save(torch.zeros(1, 4, 16, 16), self.folder / "zeros.pt")
        self.run_well("--steps", 1, "--init-latents", "zeros.pt", "-o", "o.png")
        with Image.open(self.folder / "o.png") as image:
            self.assertNotIn("Seed", image.text["parameters"])
            self.assertTrue(json.loads(image.text["deepcache"])["request"]["init_latents"])

    def test_long_prompts_are_warned_about(self):
        for prompt, *options in (
            ("cat " * 22 + "Heart, sun",),
            ("(cat:1.1) " * 22 + "Heart, (sun)", "--prompt-weighting"),
        ):
            printed = self.run_well("--steps", 1, *options, prompt=prompt).stderr
            self.assertIn('25 tokens, the model reads the first 22; this was cut: "heart , sun"', printed)
            self.assertIn("the prompt has 25", printed)
            self.assertEqual(self.run_well("--steps", 1, "--max-prompt-chunks", 2, *options, prompt=prompt).stderr, "")

    def test_long_negative_prompts_are_warned_about_by_that_name(self):
        printed = self.run_well("--steps", 1, "-n", "cat " * 22 + "sun").stderr
        self.assertIn('the negative prompt has 23 tokens, the model reads the first 22; this was cut: "sun"', printed)
        self.assertNotIn("the prompt has", printed)

    def test_prompt_weights(self):
        options, pictures = ("--steps", 1, "--prompt-weighting", "-o", "o.png"), set()
        for prompt in "red heart", "red (heart:1.5)", "red (heart:-1.5)":
            self.run_well(*options, prompt=prompt)
            pictures.add((self.folder / "o.png").read_bytes())
        self.assertEqual(len(pictures), 3)

    def test_random_seeds_are_printed_and_repeatable(self):
        seed = self.run_well("--steps", 1, "-s", -1, "-o", "a.png").stdout.split()[1]
        self.run_well("--steps", 1, "-s", seed, "-o", "b.png")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())


class ParityTest(Txt2ImgTest):
    def test_latents_are_the_live_python_pipelines(self):
        quiet()
        torch.set_num_threads(1)
        pipe = tiny_pipeline("sd2")
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(self.folder / "pipeline")
        export(self.folder / "pipeline", self.folder / "package", say=lambda _: None)
        start = torch.randn(2, 4, 10, 14, generator=torch.Generator().manual_seed(3))
        torch.save(start, self.folder / "start.pt")
        for scheduler in "ddim", "plms":
            config = pipe.scheduler.config
            pipe.scheduler = (
                diffusers.DDIMScheduler.from_config(config)
                if scheduler == "ddim"
                else diffusers.PNDMScheduler.from_config(config, skip_prk_steps=True)
            )
            helper = DeepCacheSDHelper(pipe=pipe)
            helper.set_params(cache_interval=3, cache_branch_id=4)
            helper.enable()
            expected = pipe(
                "panda", height=80, width=112, num_inference_steps=9, guidance_scale=3.0, num_images_per_prompt=2,
                latents=start, output_type="latent",
            ).images  # fmt: skip
            helper.disable()
            self.run_well(
                "--scheduler", scheduler, "--steps", 9, "--cfg-scale", 3, "-b", 2, "-W", 112, "-H", 80,
                "--cache-interval", 3, "--cache-branch-id", 4, "--forecast-order", 0, "--init-latents", "start.pt",
                "--save-latents", "end.pt", model=self.folder / "package", prompt="panda",
            )  # fmt: skip
            actual = torch.load(self.folder / "end.pt")
            self.assertLess(((actual - expected).norm() / expected.norm()).item(), 1e-4, scheduler)

    def test_the_emoji_model_paints_what_is_asked(self):
        self.run_well("--cfg-scale", 4, "-o", "heart.png", model=EMOJI)
        red, green, blue = np.asarray(Image.open(self.folder / "heart.png"))[24:40, 24:40].reshape(-1, 3).mean(0)
        self.assertGreater(red, 180)
        self.assertLess(max(green, blue), 120)

    def test_another_dtype_paints_nearly_the_same(self):
        pictures = {}
        for dtype in "package", "auto", "bfloat16":
            self.run_well("--steps", 8, "--dtype", dtype, "-o", f"{dtype}.png", model=EMOJI)
            pictures[dtype] = np.asarray(Image.open(self.folder / f"{dtype}.png")).astype(float)
        error = np.square(pictures["bfloat16"] - pictures["package"]).mean()
        self.assertGreater(error, 0)
        self.assertLess(error, 255**2 / 10**3)  # above 30 dB
        self.assertTrue(any((pictures["auto"] == pictures[dtype]).all() for dtype in ("package", "bfloat16")))


class BadInputTest(Txt2ImgTest):
    def expect_refused(self, message, *arguments, **options):
        before = self.files()
        result = run(self.folder, *arguments, **options)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertRegex(result.stderr, message)
        self.assertEqual(self.files(), before)

    def test_flags(self):
        self.expect_refused("cache_interval must be 1 or above, got 0", "--cache-interval", 0)
        self.expect_refused(
            "cache_branch_id must be 0 to 11 for this UNet, or -1 for its whole output, got 12", "--cache-branch-id", 12
        )
        self.expect_refused("from 1 to the 1000 training timesteps, not 0", "--steps", 0)
        self.expect_refused("not 1001", "--steps", 1001)
        self.expect_refused("width must be a positive multiple of 8.* 96 and 104", "-W", 100)
        self.expect_refused("height must be", "-H", 4)
        self.expect_refused("magic.*ddim.*plms", "--scheduler", "magic")
        self.expect_refused('no device "cuda:9"', "--device", "cuda:9")
        self.expect_refused("--dtype: int8 not in .*auto.*bfloat16", "--dtype", "int8")
        self.expect_refused("(?i)device", "--device", "toaster")
        self.expect_refused("num_images_per_prompt", "-b", 0)
        self.expect_refused("--steps", "--steps", "many")
        self.expect_refused("--magic", "--magic")
        self.expect_refused("excludes", "--compare", "--no-cache")
        self.expect_refused("--cache-interval excludes --no-cache", "--no-cache", "--cache-interval", 5)
        self.expect_refused("--skip-mode: 4 not in {adaptive,", "--skip-mode", 4)
        self.expect_refused(
            "full_steps must be below the run's 3 calls", "--steps", 3, "--skip-mode", "list", "--full-steps", "0,3"
        )
        self.expect_refused("requires", "--contact-sheet", "s.png")
        self.expect_refused("(?i)argument|was not expected", "red", "heart")
        broken = b"\xff".decode(errors="surrogateescape")
        self.expect_refused("weight in a prompt must be a number.* 1..5", "--prompt-weighting", prompt="(a:1..5)")
        self.expect_refused("max_prompt_chunks must be 1 or above, got 0", "--max-prompt-chunks", 0)
        self.expect_refused("UTF-8", prompt=broken)
        self.expect_refused("UTF-8", "-p", broken)  # the good prompt before it isn't painted either

    def test_files_of_prompts(self):
        (self.folder / "blank.txt").write_text("\n \n")
        (self.folder / "latin.txt").write_bytes(b"caf\xe9\n")
        (self.folder / "good.txt").write_text("sun\n")
        for message, *arguments in (
            ("no such file: absent.txt", "--prompts-file", "absent.txt"),
            ("blank.txt must hold a prompt a line, got none in 3 bytes", "--prompts-file", "blank.txt"),
            ("latin.txt must be UTF-8, got something else at byte 3 of 5", "--prompts-file", "latin.txt"),
            ("prompt_batch must be 1 or above, got 0", "--prompts-file", "good.txt", "--prompt-batch", 0),
            ("num_images_per_prompt and max_prompt_chunks must be 1, got 2 and 1",
             "--prompts-file", "good.txt", "--prompt-batch", 2, "-b", 2),
            ("excludes", "--prompts-file", "good.txt", "-p", "heart"),
        ):  # fmt: skip
            self.expect_refused(message, *arguments, prompt=None)

    def test_missing_flags(self):
        for arguments in ([], ["-m", TINY], ["-p", "x"]):
            result = subprocess.run([TXT2IMG, *map(str, arguments)], capture_output=True, text=True)
            self.assertEqual(result.returncode, 2)
            self.assertIn("is required", result.stderr)

    def test_models(self):
        self.expect_refused("no such folder: absent", model="absent")
        self.expect_refused("is no model package", model=self.folder)

        def spoil(name, change, accepted):
            shutil.rmtree(self.folder / "p", ignore_errors=True)
            shutil.copytree(TINY, self.folder / "p")
            file = self.folder / "p" / name
            change(file)
            if accepted:
                accept(self.folder / "p", name)

        for message, name, change, accepted in (
            ("no such file: .*unet/model.pt", "unet/model.pt", Path.unlink, False),
            ("unet/model.pt is damaged: it has", "unet/model.pt", lambda f: os.truncate(f, 1000), False),
            ("isn't a readable TorchScript", "unet/model.pt", lambda f: os.truncate(f, 1000), True),
            ("SHA-256", "tokenizer/vocab.json", lambda f: f.write_text(f.read_text().replace("0", "1", 1)), False),
            ("reads package format 2, got 9", "deepcache.json",
             lambda f: f.write_text(f.read_text().replace('"format_version": 2', '"format_version": 9')), False),
            ("vocab and merges disagree", "tokenizer/merges.txt",
             lambda f: f.write_text("#version: 0.2\nzz qq\n"), True),
            ("unet/model.pt: the network has no skip concatenation", "unet/model.pt",
             lambda f: shutil.copy(TINY / "vae/decoder.pt", f), True),
        ):  # fmt: skip
            with self.subTest(message):
                spoil(name, change, accepted)
                self.expect_refused(message, model="p")

    def test_outputs_that_cannot_be_written(self):
        (self.folder / "taken").mkdir()
        for flag in "-o", "--report", "--save-latents":
            self.expect_refused("can't write absent/x", flag, "absent/x")
            self.expect_refused("can't write taken", flag, "taken")
        (self.folder / "o-uncached.png").mkdir()
        self.expect_refused("can't write o-uncached.png", "--compare", "-o", "o.png")
        self.expect_refused("can't write absent/x", "--compare", "--contact-sheet", "absent/x")

    def test_latents(self):
        self.expect_refused("no such file: absent.pt", "--init-latents", "absent.pt")
        (self.folder / "text.pt").write_text("hello")
        self.expect_refused("text.pt isn't a file that torch.save wrote", "--init-latents", "text.pt")
        torch.save({"a": torch.ones(1)}, self.folder / "dict.pt")
        self.expect_refused("must hold a single tensor", "--init-latents", "dict.pt")
        torch.save(torch.ones(1, 4, 8, 8), self.folder / "small.pt")
        self.expect_refused(r"shape \[1, 4, 16, 16\], got Float \[1, 4, 8, 8\]", "--init-latents", "small.pt")


if __name__ == "__main__":
    TXT2IMG = Path(sys.argv.pop(1)).resolve()
    unittest.main()
