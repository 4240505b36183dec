"""Tests of what tools/export.py says of folders that are no good, and of what it leaves where it replaces a package:
python tests/python/test_export_input.py"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from unittest import mock

import torch
from diffusers import UNet2DConditionModel
from export_tests import ExportTest, edit_json, read_json, run, set_up
from transformers import CLIPTextModel

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools")]
import export  # noqa: E402
import families  # noqa: E402


def setUpModule():
    set_up("one_layer")


class DamagedFolderTest(ExportTest):
    def test_truncated_weights(self):
        source = self.broken()
        weights = source / "text_encoder/model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        self.expect_refused(source, "diffusers can't load it: .*")

    def test_packages_that_a_scheduler_needs(self):
        source = self.broken(scheduler=["diffusers", "DPMSolverSDEScheduler"])
        self.expect_refused(source, "diffusers can't load it: .*torchsde")

    def test_tokenizer_of_the_fast_kind_alone(self):
        source = self.broken()
        for name in "vocab.json", "merges.txt":
            (source / "tokenizer" / name).unlink()
        (source / "tokenizer/tokenizer.json").write_text("{}")
        self.expect_refused(source, "tokenizer: vocab.json and merges.txt missing; a CLIPTokenizer is read from them")

    def test_inpainting_unet_of_eight_channels(self):
        source = self.broken(_class_name="StableDiffusionInpaintPipeline")
        self.replace_unet(source, in_channels=8)
        self.expect_refused(source, "in_channels of a StableDiffusionInpaintPipeline must be 4 or 9; got 8")

    def test_inpainting_unet_without_a_mask(self):
        source = self.broken()
        self.replace_unet(source, in_channels=9)
        self.expect_refused(source, "in_channels of a StableDiffusionPipeline must be 4; got 9")

    def replace_unet(self, source, **settings):
        shutil.rmtree(source / "unet")
        config = dict(self.pipes["one_layer"].unet.config)
        UNet2DConditionModel.from_config(config, **settings).save_pretrained(source / "unet")

    def test_index_entries_that_are_none(self):
        for entry in "x", ["diffusers"], [1, 2], {"a": 1}, ["diffusers", "UNet2DConditionModel", "x"]:
            self.expect_refused(self.broken(unet=entry), "unet must be a library and a class, got ")
        self.expect_refused(self.broken(_class_name=["x"]), "isn't known")

    def test_prompts_longer_than_the_text_encoder_takes(self):
        source = self.broken()
        edit_json(source / "tokenizer/tokenizer_config.json", model_max_length=30)
        self.expect_refused(source, "model_max_length must be from 2 to .*max_position_embeddings, 24; got 30")

    def test_prediction_type_that_is_unknown(self):
        source = self.broken()
        edit_json(source / "scheduler/scheduler_config.json", prediction_type="flow_prediction")
        self.expect_refused(source, "prediction_type must be one of epsilon, sample, v_prediction; got 'flow_predict")

    def test_prompts_without_a_limit_are_of_77_tokens(self):
        source, out = self.broken(), self.scratch() / "package"
        config = self.pipes["one_layer"].text_encoder.config.to_dict() | dict(max_position_embeddings=77)
        CLIPTextModel(CLIPTextModel.config_class(**config)).save_pretrained(source / "text_encoder")
        edit_json(source / "tokenizer/tokenizer_config.json", model_max_length=int(1e30))
        code, printed = run(source, out)
        self.assertEqual(code, 0, printed)
        self.assertEqual(read_json(out / "tokenizer/tokenizer_config.json")["model_max_length"], 77)

    def test_settings_that_change_what_networks_are_given(self):
        source = self.broken()
        edit_json(source / "text_encoder/config.json", use_attention_mask=True)
        self.expect_refused(
            source, "text_encoder/config.json: use_attention_mask isn't supported in a StableDiffusionP"
        )
        source = self.broken()
        self.replace_unet(source, addition_embed_type="text", addition_embed_type_num_heads=4)
        self.expect_refused(
            source, "unet/config.json: addition_embed_type isn't supported in a StableDiffusionPipeline"
        )

    def test_one_file_and_controlnet_pipelines(self):
        for name in "model.safetensors", "model.ckpt", "model.bin":
            file = self.scratch() / name
            file.write_bytes(b"")
            self.expect_refused(file, r"StableDiffusionPipeline.from_single_file\(")
        source = self.broken(_class_name="StableDiffusionControlNetPipeline")
        self.expect_refused(source, "a ControlNet is exported on its own, from .*/controlnet, and")

    def test_unforeseen_errors_leave_no_package(self):
        out = self.scratch() / "package"
        with mock.patch.object(export, "write_configs", side_effect=IndexError("out of range")):
            code, printed = run(self.source("one_layer"), out)
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, "IndexError: out of range\nno package was written")
        self.assertEqual(list(out.parent.iterdir()), [])


class TextEncoderTest(ExportTest):
    """All that the library reads of a text encoder is compared, not only what the pipeline reads by default."""

    def expect_found(self, change):
        def changed(view, original):
            return lambda ids: change(*normalized(view, original)(ids))

        normalized, out = families.normalized_states, self.scratch() / "package"
        with mock.patch.object(families, "normalized_states", changed):
            code, printed = run(self.source("one_layer"), out)
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, "text_encoder/model.pt at .* off the pipeline's")

    def test_other_states(self):
        self.expect_found(lambda states, pooled: (torch.cat([states[:-1] * 2, states[-1:]]), pooled))

    def test_pooled_output(self):
        self.expect_found(lambda states, pooled: (states, pooled * 3))


class PlaceTest(ExportTest):
    def old_package(self):
        """A copy that can be told from a new one."""
        out = self.scratch() / "package"
        shutil.copytree(self.package("one_layer"), out)
        return out

    def contents(self, folder):
        return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def test_files_that_are_none_of_the_packages_stay(self):
        out = self.old_package()
        (out / "README.md").write_text("mine")
        (out / "notes/old").mkdir(parents=True)
        (out / "notes/old/a.txt").write_text("a")
        (out / "link").symlink_to("README.md")
        code, printed = run(self.source("one_layer"), out, "--force")
        self.assertEqual(code, 0, printed)
        manifest = read_json(out / "deepcache.json")
        self.assertEqual(manifest["storage_dtype"], "float32")
        self.assertEqual([(out / name).read_text() for name in ("README.md", "notes/old/a.txt")], ["mine", "a"])
        self.assertEqual(os.readlink(out / "link"), "README.md")
        self.assertNotIn("README.md", manifest["files"])
        self.assertEqual([entry.name for entry in out.parent.iterdir()], ["package"])

    def test_a_file_that_has_become_the_packages_is_not_overwritten(self):
        out = self.old_package()
        manifest = read_json(out / "deepcache.json")
        del manifest["files"]["vae/config.json"]
        (out / "deepcache.json").write_text(json.dumps(manifest))
        before = self.contents(out)
        self.expect_refused(self.source("one_layer"), "vae/config.json isn't the old package's", "--force", out=out)
        self.assertEqual(self.contents(out), before)

    def test_what_is_read_is_not_replaced(self):
        out = self.old_package()
        shutil.copytree(self.source("one_layer"), out / "source")
        for source, *options in (
            (out / "source",),
            (self.source("one_layer"), "--lora", f"{out / 'vae/decoder.pt'}:0.5"),
            (self.source("one_layer"), "--textual-inversion", out / "vae/decoder.pt"),
        ):
            before = self.contents(out)
            self.expect_refused(source, "package has .* in it, so that --force", "--force", *options, out=out)
            self.assertEqual(self.contents(out), before)

    def test_a_manifest_that_tells_nothing(self):
        out = self.old_package()
        (out / "deepcache.json").write_text("{}")
        self.expect_refused(self.source("one_layer"), "deepcache.json can't be read .*'files'", "--force", out=out)

    def test_the_old_package_outlives_a_failed_swap(self):
        out = self.old_package()
        before, rename = self.contents(out), Path.rename

        def fails(path, target):
            if path.name.endswith(".part"):
                raise OSError("no such luck")
            return rename(path, target)

        with mock.patch.object(Path, "rename", fails):
            code, printed = run(self.source("one_layer"), out, "--force")
        self.assertEqual(code, 1, printed)
        self.assertEqual(self.contents(out), before)
        self.assertEqual([entry.name for entry in out.parent.iterdir()], ["package"])


class ProcessTest(ExportTest):
    """The script as it is run, with warnings as Python shows them."""

    def start(self, *arguments):
        command = [sys.executable, ROOT / "tools/export.py", *arguments]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)

    def test_no_warnings_of_libraries(self):
        process = self.start(self.folder / "nowhere", self.folder / "package")
        printed = process.communicate()[1]
        self.assertEqual(process.returncode, 2, printed)
        self.assertNotIn("Warning", printed)

    def test_a_terminated_export_leaves_nothing(self):
        out = self.scratch() / "package"
        process = self.start(self.source("one_layer"), out)
        deadline = time.monotonic() + 300
        while not list(out.parent.glob("*.part/unet/model.pt")):
            self.assertTrue(process.poll() is None and time.monotonic() < deadline, "it must be at work by now")
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate()[1]
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, printed)
        self.assertEqual(list(out.parent.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
