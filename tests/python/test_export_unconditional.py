"""Tests of tools/export.py on small unconditional models: python tests/python/test_export_unconditional.py"""

import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from diffusers import DDPMPipeline, UNet2DModel
from export_tests import edit_json, read_json, run

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import export  # noqa: E402
import tracing  # noqa: E402
from ddpm import VARIANTS, tiny_unconditional  # noqa: E402


def setUpModule():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    UnconditionalExportTest.folder = Path(folder.name)
    for name in VARIANTS:
        pipe = UnconditionalExportTest.pipes[name] = tiny_unconditional(name)
        pipe.save_pretrained(UnconditionalExportTest.source(name))
        arguments = UnconditionalExportTest.source(name), UnconditionalExportTest.package(name)
        code, UnconditionalExportTest.printed[name] = run(*arguments, "--storage-dtype", "float16")
        assert code == 0, UnconditionalExportTest.printed[name]


class UnconditionalExportTest(unittest.TestCase):
    folder, pipes, printed = None, {}, {}

    @classmethod
    def source(cls, name):
        return cls.folder / name / "source"

    @classmethod
    def package(cls, name):
        return cls.folder / name / "package"

    def changed(self, file="model_index.json", **settings):
        """A copy of the pipeline's folder with other settings in one of its files."""
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        source = Path(folder.name) / "source"
        shutil.copytree(self.source("ddpm"), source)
        edit_json(source / file, **settings)
        return source

    def expect_refused(self, source, message, *options):
        code, printed = run(source, source.parent / "package", *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertNotIn("package", [entry.name for entry in source.parent.iterdir()])

    def test_package(self):
        for name in VARIANTS:
            manifest = read_json(self.package(name) / "deepcache.json")
            self.assertEqual((manifest["family"], manifest["storage_dtype"]), ("unconditional", "float16"))
            files = {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "unet/model.pt"}
            self.assertEqual(set(manifest["files"]), files)
            network = torch.jit.load(self.package(name) / "unet/model.pt")
            arguments = [argument.name for argument in network.forward.schema.arguments][1:]
            self.assertEqual(arguments, ["sample", "timestep"])
            self.assertRegex(self.printed[name], r"unet/model.pt: .* at 4 sizes")

    def test_network_serves_every_size_that_python_takes(self):
        unet = self.pipes["ddpm"].unet
        loaded = tracing.load_network(self.package("ddpm") / "unet/model.pt", torch.float32)
        for batch, height, width in (1, 8, 8), (3, 16, 24), (2, 40, 8):
            sample = torch.randn(batch, 3, height, width)
            for timestep in torch.tensor(7), torch.tensor(7.5):
                with self.subTest(batch=batch, height=height, width=width, timestep=timestep):
                    torch.testing.assert_close(loaded(sample, timestep), unet(sample, timestep).sample)
        with self.assertRaises(RuntimeError):
            unet(torch.randn(1, 3, 12, 20), 7)

    def test_components_at_the_top_level(self):
        """Older repositories have the UNet's and the scheduler's files beside model_index.json."""
        source = self.changed()
        for component in "unet", "scheduler":
            for file in (source / component).iterdir():
                file.rename(source / file.name)
            (source / component).rmdir()
        package = source.parent / "package"
        code, printed = run(source, package, "--storage-dtype", "float16")
        self.assertEqual(code, 0, printed)
        for file in "unet/config.json", "scheduler/scheduler_config.json", "model_index.json":
            self.assertEqual(read_json(package / file), read_json(self.package("ddpm") / file))
        weights, expected = (
            tracing.weights(torch.jit.load(folder / "unet/model.pt")) for folder in (package, self.package("ddpm"))
        )
        self.assertEqual(weights.keys(), expected.keys())
        for name in expected:
            self.assertTrue(torch.equal(weights[name], expected[name]), name)

    def test_halves_run_too(self):
        for dtype in "bfloat16", "float16":
            code, printed = run(self.source("ddpm_grey"), self.folder / dtype, "--dtype", dtype)
            self.assertEqual(code, 0, printed)

    def test_what_it_does_not_know_is_refused(self):
        self.expect_refused(self.changed(_class_name="ScoreSdeVePipeline"), "ScoreSdeVePipeline isn't known; .*DDPM")
        self.expect_refused(self.changed(unet=[None, None]), "component unet is missing")
        self.expect_refused(self.changed(unet=["diffusers", "UNet1DModel"]), "unet is a UNet1DModel; .*UNet2DModel")
        source = self.changed()
        shutil.rmtree(source / "unet")
        self.expect_refused(source, "diffusers can't load it")
        (self.folder / "lora.safetensors").write_bytes(b"")
        for option in "--lora", "--textual-inversion":
            self.expect_refused(
                self.changed(), f"DDPMPipeline takes no {option}", option, self.folder / "lora.safetensors"
            )

    def test_models_of_classes_are_refused(self):
        pipe, source = self.pipes["ddpm"], self.changed()
        shutil.rmtree(source)
        unet = UNet2DModel.from_config(pipe.unet.config, num_class_embeds=4)
        DDPMPipeline(unet, pipe.scheduler).save_pretrained(source)
        self.expect_refused(source, "unet/config.json: num_class_embeds isn't supported in a DDPMPipeline")

    def test_network_that_differs_leaves_no_package(self):
        source, check = self.changed(), tracing.difference
        different = mock.patch.object(tracing, "difference", lambda actual, *rest: check(actual * 1.01, *rest))
        with different:
            code, printed = run(source, source.parent / "package")
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, r"unet/model.pt at .* off the pipeline's")
        self.assertEqual([entry.name for entry in source.parent.iterdir()], ["source"])


if __name__ == "__main__":
    unittest.main()
