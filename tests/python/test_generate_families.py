"""Tests of `deepcache generate` with models other than Stable Diffusion: test_generate_families.py build/bin

That the pictures are right, the parity tests of their pipelines show; here is what the program adds.
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "tests/data/packages"
BIN = None


class FamiliesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        Image.effect_noise((64, 48), 50).convert("RGB").save(self.folder / "i.png")

    def generate(self, model, *arguments):
        command = [BIN / "deepcache", "generate", "-m", PACKAGES / model, *arguments]
        return subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)

    def report(self, model, *arguments):
        result = self.generate(model, *arguments, "--report", "r.json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads((self.folder / "r.json").read_text())

    def files(self):
        return sorted(file.name for file in self.folder.iterdir() if file.name not in ("i.png", "r.json"))

    def expect_refused(self, message, model, *arguments):
        before = sorted(self.folder.iterdir())
        result = self.generate(model, *arguments)
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertRegex(result.stderr, message)
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def expect_modes(self, report, modes):
        """Of the steps: f for full, c for cached."""
        self.assertEqual("".join(step["mode"][0] for step in report["steps"]), modes)


class ImageToVideoTest(FamiliesTest):
    SMALL = "-i", "i.png", "-W", 32, "-H", 32, "--num-frames", 3

    def test_a_video(self):
        report = self.report(
            "svd", *self.SMALL, "--steps", 4, "--fps", 5, "--motion-bucket-id", 90, "-o", "v.png",
            "--model_type", "svd", "--decode-chunk-size", 2, "--noise-aug-strength", 0.1,
            "--min-guidance-scale", 1.5, "--max-guidance-scale", 2.5,
        )  # fmt: skip
        self.assertEqual(self.files(), ["v.png"])
        with Image.open(self.folder / "v.png") as video:
            self.assertEqual((video.n_frames, video.size, video.info["duration"]), (3, (32, 32), 200))
            text = video.text["parameters"]
        self.assertTrue(text.startswith("i.png\nSteps: 4, Sampler: EulerDiscreteScheduler, "), text)
        request = report["request"]
        expected = {
            "image": "i.png", "fps": 5, "num_frames": 3, "motion_bucket_id": 90, "decode_chunk_size": 2,
            "noise_aug_strength": 0.1, "min_guidance_scale": 1.5, "max_guidance_scale": 2.5,
        }  # fmt: skip
        self.assertEqual({key: request[key] for key in expected}, expected)
        self.expect_modes(report, "fccf")

    def test_comparison_and_several_videos(self):
        report = self.report(
            "svd", *self.SMALL, "--steps", 3, "-b", 2, "--compare", "--contact-sheet", "c.png", "-o", "v.png"
        )
        self.assertEqual(self.files(), ["c.png", "v-1-uncached.png", "v-1.png", "v-2-uncached.png", "v-2.png"])
        self.assertGreater(report["compare"]["speedup"], 0)

    def test_videos_of_codecs(self):
        result = self.generate("svd", *self.SMALL, "--steps", 2, "-o", "v.mp4")
        if "without FFmpeg" in result.stderr:
            self.skipTest("this build has no FFmpeg")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((self.folder / "v.mp4").read_bytes()[4:8], b"ftyp")

    def test_a_folder_of_frames(self):
        for name in "frames", "frames.v2":
            self.report("svd", *self.SMALL, "--steps", 2, "-o", f"{name}/")
            frames = sorted(f.name for f in (self.folder / name).iterdir())
            self.assertEqual(frames, [f"000{i}.png" for i in (1, 2, 3)])

    def test_bad_input(self):
        (self.folder / "p.txt").write_text("sun\n")
        self.expect_refused("--prompts-file is of no use to .*svd", "svd", *self.SMALL, "--prompts-file", "p.txt")
        self.expect_refused("--image is required", "svd")
        self.expect_refused("--prompt is of no use to .*svd, a model of family stable-video-diffusion.*--image",
                            "svd", "-p", "x", *self.SMALL)  # fmt: skip
        self.expect_refused("num_frames must be", "svd", "-i", "i.png", "--num-frames", 0)
        self.expect_refused("model of type svd, not ddpm", "svd", *self.SMALL, "--model_type", "ddpm")
        self.expect_refused("v.avi", "svd", *self.SMALL, "-o", "v.avi")
        for name in "v.png", "v.apng", "frames":
            self.expect_refused(f"can't write /proc/{name}", "svd", *self.SMALL, "-o", f"/proc/{name}")
        self.expect_refused("no such file: absent.png", "svd", "-i", "absent.png")


class TextToVideoTest(FamiliesTest):
    def test_a_video(self):
        report = self.report(
            "text_to_video_zero", "-p", "red heart", "-W", 64, "-H", 64, "--steps", 8, "--t0", 4, "--t1", 6,
            "--num-frames", 3, "--cache-interval", 2, "-o", "v.png", "--save-latents", "l.pt",
            "--motion-field-strength-x", 5, "--motion-field-strength-y", 7, "--model_type", "text2video-zero",
        )  # fmt: skip
        with Image.open(self.folder / "v.png") as video:
            self.assertEqual((video.n_frames, video.size, video.info["duration"]), (3, (64, 64), 250))
        self.assertEqual(torch.load(self.folder / "l.pt").shape, (3, 4, 8, 8))
        asked = [report["request"][f"motion_field_strength_{axis}"] for axis in "xy"]
        self.assertEqual(asked, [5, 7])
        self.expect_modes(report, "f" + "fc" + "fcfcfcf")  # to t1, to t0, and from t1 on
        self.assertEqual(len(report["steps"]), report["totals"]["full_steps"] + report["totals"]["cached_steps"])

    def test_bad_input(self):
        self.expect_refused("--prompt or --prompts-file is required", "text_to_video_zero")
        self.expect_refused("--image is of no use", "text_to_video_zero", "-p", "x", "-i", "i.png")
        self.expect_refused("video_length", "text_to_video_zero", "-p", "x", "--num-frames", 0)
        self.expect_refused("t0", "text_to_video_zero", "-p", "x", "--t0", 48)


class SamplesTest(FamiliesTest):
    def test_unconditional(self):
        report = self.report("ddpm", "--scheduler", "ddim", "--steps", 7, "-b", 2, "-o", "s.png")
        self.assertEqual(self.files(), ["s-1.png", "s-2.png"])
        self.expect_modes(report, "fccfccf")

    def test_greys(self):
        self.report("ddpm_grey", "--scheduler", "ddim", "--steps", 2, "-o", "s.png")
        with Image.open(self.folder / "s.png") as image:
            red, green, blue = image.split()
            self.assertEqual(red.tobytes(), green.tobytes())
            self.assertEqual(red.tobytes(), blue.tobytes())

    def test_full_steps_that_are_not_uniform(self):
        center = "--skip-mode", "center", "--center", 15, "--pow", 1.4, "--cache-interval", 3
        report = self.report("ddpm", "--scheduler", "ddim", "--steps", 30, *center)
        modes = "".join(step["mode"][0] for step in report["steps"])
        self.assertGreater(modes[12:18].count("f"), modes[:6].count("f"))
        self.expect_refused("--skip-mode", "ddpm", "--skip-mode", "odd")
        self.expect_refused("--tolerance has no use in this --skip-mode", "ddpm", "--tolerance", 0.2)
        self.expect_refused("--center has no use", "ddpm", "--skip-mode", "quad", "--center", 3)
        self.expect_refused("--cache-interval has no use", "ddpm", "--skip-mode", "adaptive", "--cache-interval", 3)
        self.expect_refused("center must be 0 to the run's 1 steps, got 15", "ddpm", "--steps", 1, *center)

    def test_steps_are_the_models_own_if_not_given(self):
        self.assertEqual(self.report("ddpm", "--scheduler", "ddim")["request"]["steps"], 50)

    def test_classes(self):
        reports = self.report("ldm", "--class-label", 3, "--class-label", 5, "--steps", 10, "-b", 2, "-o", "c.png")
        self.assertEqual(self.files(), [f"c-{i}.png" for i in range(1, 5)])
        self.assertEqual([report["request"]["class_label"] for report in reports], [3, 5])
        with Image.open(self.folder / "c-1.png") as image:
            self.assertTrue(image.text["parameters"].startswith("class 3\n"))

    def test_bad_input(self):
        self.expect_refused("--class-label is required", "ldm")
        self.expect_refused("class.* 999999", "ldm", "--class-label", 999999)
        self.expect_refused("--class-label is of no use", "ddpm", "--class-label", 3)
        self.expect_refused("--cfg-scale is of no use", "ddpm", "--cfg-scale", 3)
        self.expect_refused("batch_size must be 1 or above, got 0", "ddpm", "-b", 0)
        self.expect_refused("--controlnet is of no use", "ldm", "--controlnet", PACKAGES / "controlnet_sd1")


if __name__ == "__main__":
    BIN = Path(sys.argv.pop(1)).resolve()
    unittest.main()
