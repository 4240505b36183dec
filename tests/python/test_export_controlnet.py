"""Tests of tools/export.py on small random-weight ControlNets: python tests/python/test_export_controlnet.py"""

import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from export_tests import edit_json, read_json, run

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import controlnets  # noqa: E402
import export  # noqa: E402
import families  # noqa: E402
import tracing  # noqa: E402
from controlnet import CONTROLNETS, tiny_controlnet  # noqa: E402

SIZES = [families.Size(1, 8, 8, 24), families.Size(3, 11, 21, 6)]
RESIDUALS = {"controlnet_sd1": 13, "controlnet_sd1_bgr": 13, "controlnet_sdxl": 10, "controlnet_sd2": 13}


def setUpModule():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    ControlNetExportTest.folder = Path(folder.name)
    for name in CONTROLNETS:
        tiny_controlnet(name).save_pretrained(ControlNetExportTest.source(name))
        arguments = ControlNetExportTest.source(name), ControlNetExportTest.package(name), "--storage-dtype", "float16"
        code, printed = run(*arguments)
        assert code == 0, printed


class ControlNetExportTest(unittest.TestCase):
    folder = None

    @classmethod
    def source(cls, name):
        return cls.folder / name / "source"

    @classmethod
    def package(cls, name):
        return cls.folder / name / "package"

    def changed(self, **settings):
        """A copy of a ControlNet's folder with other settings in its config.json."""
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        source = Path(folder.name) / "source"
        shutil.copytree(self.source("controlnet_sd1"), source)
        edit_json(source / "config.json", **settings)
        return source

    def expect_refused(self, source, message, *options):
        code, printed = run(source, source.parent / "package", *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertEqual([entry.name for entry in source.parent.iterdir()], ["source"])

    def test_package(self):
        for name in CONTROLNETS:
            manifest = read_json(self.package(name) / "deepcache.json")
            self.assertEqual(
                [manifest[key] for key in ("format_version", "family", "dtype", "storage_dtype")],
                [2, "controlnet", "float32", "float16"],
            )
            self.assertEqual(set(manifest["files"]), {"controlnet/config.json", "controlnet/model.pt"})
            config = read_json(self.package(name) / "controlnet/config.json")
            self.assertEqual(config["_class_name"], "ControlNetModel")
            self.assertEqual(config["conditioning_embedding_out_channels"], [4, 4, 8, 8])
            self.assertNotIn("_name_or_path", config)

    def test_networks_serve_other_sizes_than_the_traced_one(self):
        torch.manual_seed(0)
        for name in CONTROLNETS:
            source, family = controlnets.load_controlnet(self.source(name), torch.float32)
            loaded = tracing.load_network(self.package(name) / "controlnet/model.pt", torch.float32)
            for size in SIZES:
                inputs = family.networks[0].inputs(source, size)
                expected = family.networks[0].reference(source, *inputs)
                with self.subTest(name=name, size=size):
                    outputs = loaded(*inputs)
                    self.assertEqual(len(outputs), RESIDUALS[name])
                    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)

    def test_arguments_have_the_unets_names(self):
        names = ["sample", "timestep", "encoder_hidden_states", "controlnet_cond", "text_embeds", "time_ids"]
        for name in CONTROLNETS:
            network = torch.jit.load(self.package(name) / "controlnet/model.pt")
            arguments = [argument.name for argument in network.forward.schema.arguments][1:]
            self.assertEqual(arguments, names if name == "controlnet_sdxl" else names[:4])

    def test_halves_run_too(self):
        code, printed = run(self.source("controlnet_sdxl"), self.folder / "half", "--dtype", "bfloat16")
        self.assertEqual(code, 0, printed)

    def test_other_models_and_settings_are_refused(self):
        self.expect_refused(
            self.changed(_class_name="FluxControlNetModel"), "FluxControlNetModel isn't known; .*Control"
        )
        self.expect_refused(self.changed(_class_name=...), "no _class_name can be read")
        self.expect_refused(self.changed(global_pool_conditions=True), "global_pool_conditions isn't supported")
        self.expect_refused(self.changed(cross_attention_dim=64), "diffusers can't load it")
        source = self.changed()
        shutil.rmtree(source)
        config = ControlNetModel.load_config(self.source("controlnet_sd1"))
        ControlNetModel.from_config(config, addition_embed_type="text").save_pretrained(source)
        self.expect_refused(source, 'addition_embed_type must be null or "text_time" .SDXL., not "text"')
        shutil.rmtree(source)
        ControlNetModel.from_config(config, num_class_embeds=4).save_pretrained(source)
        self.expect_refused(source, "num_class_embeds isn't supported")
        shutil.rmtree(source)
        UNet2DConditionModel(
            block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        ).save_pretrained(source)
        self.expect_refused(source, "UNet2DConditionModel isn't known")

    def test_options_of_pipelines(self):
        for option in "--lora", "--textual-inversion", "--config":
            self.expect_refused(self.changed(), f"a ControlNet takes no {option}", option, "x.safetensors")

    def test_missing_weights(self):
        source = self.changed()
        (source / "diffusion_pytorch_model.safetensors").unlink()
        self.expect_refused(source, "can't load")

    def test_outputs_of_another_kind_differ(self):
        for other in torch.zeros(3), torch.zeros(2, dtype=torch.float16):
            with self.assertRaisesRegex(tracing.CheckError, r"x: got .*, the pipeline gives torch.float32 \[2\]"):
                tracing.difference(other, torch.zeros(2), "x")

    def test_network_that_differs_leaves_no_package(self):
        source, check = self.changed(), tracing.difference
        different = mock.patch.object(tracing, "difference", lambda actual, *rest: check(actual * 1.01, *rest))
        with different:
            code, printed = run(source, source.parent / "package")
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, r"controlnet/model.pt at .* off the pipeline's")
        self.assertEqual([entry.name for entry in source.parent.iterdir()], ["source"])


if __name__ == "__main__":
    unittest.main()
