"""Tests of the video example as a user runs it: python tests/python/test_video.py build/bin/video

Its animated PNG files are read by Pillow.
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from PIL import Image

VIDEO = None


class VideoTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.pixels = np.random.default_rng(0).integers(0, 256, (5, 21, 34, 3), dtype=np.uint8)
        for i, frame in enumerate(self.pixels):
            Image.fromarray(frame).save(self.folder / f"{i}.png")

    def run_video(self, *arguments):
        return subprocess.run([VIDEO, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True)

    def write(self, fps, output):
        result = self.run_video(fps, output, *[f"{i}.png" for i in range(len(self.pixels))])
        self.assertEqual((result.returncode, result.stdout + result.stderr), (0, ""))
        return self.folder / output

    def test_pillow_reads_animated_png(self):
        for name in "v.png", "v.apng":
            with Image.open(self.write(12.5, name)) as image:
                self.assertEqual((image.format, image.n_frames, image.size), ("PNG", 5, (34, 21)))
                self.assertEqual(image.info["loop"], 0)
                for i, frame in enumerate(self.pixels):
                    image.seek(i)
                    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
                    self.assertEqual(image.info["duration"], 80)
                image.load()

    def test_folders_hold_the_frames(self):
        folder = self.write(7, "frames")
        self.assertEqual(sorted(f.name for f in folder.iterdir()), [f"000{i}.png" for i in range(1, 6)])
        for i, frame in enumerate(self.pixels):
            np.testing.assert_array_equal(np.asarray(Image.open(folder / f"000{i + 1}.png")), frame)

    def test_frames_may_be_jpeg(self):
        Image.fromarray(self.pixels[0]).save(self.folder / "photo.jpg", quality=95)
        self.assertEqual(self.run_video(7, "v.png", "photo.jpg").returncode, 0)
        with Image.open(self.folder / "v.png") as actual, Image.open(self.folder / "photo.jpg") as expected:
            np.testing.assert_array_equal(np.asarray(actual.convert("RGB")), np.asarray(expected))

    def test_bad_input(self):
        before = sorted(self.folder.iterdir())
        Image.new("RGB", (4, 4)).save(self.folder / "small.png")
        for message, *arguments in (
            ("usage", 7, "v.png"),
            ('FPS must be a number, got "7x"', "7x", "v.png", "0.png"),
            ("fps must be 0.1 to 1000, got 0", 0, "v.png", "0.png"),
            ("no such file: absent.png", 7, "v.png", "absent.png"),
            ("size of the first one, not so small.png", 7, "v.png", "0.png", "small.png"),
            ('folder whose name has no extension .* got "v.avi"', 7, "v.avi", "0.png"),
            ("can't write absent/v.png: there is no folder", 7, "absent/v.png", "0.png"),
        ):
            with self.subTest(message):
                result = self.run_video(*arguments)
                self.assertEqual(result.returncode, 2)
                self.assertRegex(result.stderr, message)
        (self.folder / "small.png").unlink()
        self.assertEqual(sorted(self.folder.iterdir()), before)


if __name__ == "__main__":
    VIDEO = str(Path(sys.argv.pop(1)).resolve())
    unittest.main()
