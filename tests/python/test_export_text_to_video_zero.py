"""Tests of tools/export.py --as text-to-video-zero: python tests/python/test_export_text_to_video_zero.py"""

import sys
import unittest
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler
from export_tests import ExportTest, edit_json, read_json, run, set_up

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import families  # noqa: E402
import tracing  # noqa: E402
from controlnet import tiny_controlnet  # noqa: E402
from text_to_video_zero import TEXT_TO_VIDEO_ZERO  # noqa: E402  (of tools/)

VIDEO = "--as", "text-to-video-zero"
# Frames of one video or more, fewer and more than were traced.
SIZES = [families.Size(1, 8, 8, 24, 7), families.Size(2, 11, 21, 6, 1), families.Size(2, 8, 8, 3, 6)]


def setUpModule():
    set_up("one_layer")
    ExportTest.video = ExportTest.folder / "video"
    code, printed = run(ExportTest.source("one_layer"), ExportTest.video, *VIDEO)
    assert code == 0, printed


class TextToVideoZeroExportTest(ExportTest):
    def test_package(self):
        manifest = read_json(self.video / "deepcache.json")
        self.assertEqual(manifest["family"], "text-to-video-zero")
        self.assertEqual(manifest["format_version"], 2)
        self.assertEqual(set(manifest["files"]), set(read_json(self.package("one_layer") / "deepcache.json")["files"]))
        self.assertEqual(read_json(self.video / "model_index.json")["_class_name"], "TextToVideoZeroPipeline")

    def test_unet_serves_any_number_of_frames(self):
        torch.manual_seed(0)
        pipe = self.pipes["one_layer"]
        network = next(n for n in TEXT_TO_VIDEO_ZERO.networks if n.file == "unet/model.pt")
        processors = pipe.unet.attn_processors
        loaded = tracing.load_network(self.video / network.file)
        for size in SIZES:
            inputs = network.inputs(pipe, size)
            with self.subTest(size=size):
                self.assertEqual(inputs[0].shape[0], size.batch * size.frames)
                self.assertEqual(inputs[2].shape[0], size.batch)
                expected = network.reference(pipe, *inputs)
                torch.testing.assert_close((loaded(*inputs),), expected, rtol=1e-5, atol=1e-5)
        self.assertEqual(pipe.unet.attn_processors, processors)

    def test_frames_look_at_the_first_one(self):
        torch.manual_seed(0)
        loaded = tracing.load_network(self.video / "unet/model.pt")
        sample, timestep, states = families.unet_inputs(self.pipes["one_layer"], families.Size(4, 8, 8, 5))
        of_one_video = loaded(sample, timestep, states[:1])
        changed = torch.cat([torch.randn(1, 4, 8, 8), sample[1:]])
        self.assertGreater((loaded(changed, timestep, states[:1]) - of_one_video)[1:].abs().min(1).values.max(), 1e-4)
        changed = torch.cat([sample[:3], torch.randn(1, 4, 8, 8)])
        torch.testing.assert_close(loaded(changed, timestep, states[:1])[:3], of_one_video[:3], rtol=1e-5, atol=1e-5)

    def test_arguments_keep_their_names(self):
        network = torch.jit.load(self.video / "unet/model.pt")
        arguments = [argument.name for argument in network.forward.schema.arguments][1:]
        self.assertEqual(arguments, ["sample", "timestep", "encoder_hidden_states"])

    def test_folders_of_its_own_class_need_no_option(self):
        source = self.broken(_class_name="TextToVideoZeroPipeline")
        code, printed = run(source, source.parent / "package")
        self.assertEqual(code, 0, printed)
        self.assertEqual(read_json(source.parent / "package/deepcache.json")["family"], "text-to-video-zero")

    def test_schedulers_that_it_can_not_be_run_with_are_warned_of(self):
        source = self.broken(scheduler=["diffusers", "EulerDiscreteScheduler"])
        EulerDiscreteScheduler().save_pretrained(source / "scheduler")
        code, printed = run(source, source.parent / "package", *VIDEO)
        self.assertEqual(code, 0, printed)
        self.assertRegex(printed, "warning: .* EulerDiscreteScheduler, with which .* --scheduler ddim or plms or ")

    def test_halves_run_too(self):
        code, printed = run(self.source("one_layer"), self.folder / "half", *VIDEO, "--dtype", "bfloat16")
        self.assertEqual(code, 0, printed)

    def test_what_it_can_not_be_made_of(self):
        message = "a {} can't be exported as text-to-video-zero; can: StableDiffusionPipeline"
        for name in "StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline", "FluxPipeline":
            self.expect_refused(self.broken(_class_name=name), message.format(name), *VIDEO)
        source = self.broken()
        edit_json(source / "unet/config.json", cross_attention_norm="layer_norm")
        self.expect_refused(source, "cross_attention_norm", *VIDEO)
        source = self.scratch() / "controlnet"
        tiny_controlnet("controlnet_sd1").save_pretrained(source)
        self.expect_refused(source, "a ControlNet takes no --as", *VIDEO)
        with self.assertRaises(SystemExit):
            run(self.source("one_layer"), self.scratch() / "package", "--as", "text-to-music")


if __name__ == "__main__":
    unittest.main()
