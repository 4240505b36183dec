"""Tests of tools/export.py on a small random-weight Stable Video Diffusion: test_export_stable_video.py"""

import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from export_tests import edit_json, read_json, run

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import export  # noqa: E402
import families  # noqa: E402
import stable_video as family_file  # noqa: E402
import tracing  # noqa: E402
from tiny_video import image_encoder, tiny_video_pipeline  # noqa: E402

SIZES = [
    families.Size(1, 8, 8, 1, frames=1),
    families.Size(2, 11, 21, 1, frames=4),
    families.Size(3, 16, 10, 1, frames=7),
]
FILES = {
    "feature_extractor/preprocessor_config.json",
    "image_encoder/config.json",
    "image_encoder/model.pt",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/model.pt",
    "vae/config.json",
    "vae/decoder.pt",
    "vae/encoder.pt",
}
NETWORKS = family_file.STABLE_VIDEO_DIFFUSION.networks


def setUpModule():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    VideoExportTest.folder = Path(folder.name)
    VideoExportTest.pipe = tiny_video_pipeline()
    VideoExportTest.source, VideoExportTest.package = (
        VideoExportTest.folder / "source",
        VideoExportTest.folder / "package",
    )
    VideoExportTest.pipe.save_pretrained(VideoExportTest.source)
    code, VideoExportTest.printed = run(VideoExportTest.source, VideoExportTest.package, "--storage-dtype", "float16")
    assert code == 0, VideoExportTest.printed


def places(network):
    """Skip concatenations of a traced UNet."""
    cats = [node for node in network.inlined_graph.nodes() if node.kind() == "aten::cat"]
    return sum(len(list(n.inputsAt(0).node().inputs())) == 2 and n.inputsAt(1).toIValue() == 1 for n in cats)


class VideoExportTest(unittest.TestCase):
    def broken(self):
        """A copy of the pipeline's folder, in a folder of its own."""
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        source = Path(folder.name) / "source"
        shutil.copytree(self.source, source)
        return source

    def expect_refused(self, source, message, *options):
        code, printed = run(source, source.parent / "package", *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertEqual([entry.name for entry in source.parent.iterdir()], ["source"])

    def test_package(self):
        manifest = read_json(self.package / "deepcache.json")
        self.assertEqual(
            [manifest[key] for key in ("format_version", "family", "dtype", "storage_dtype")],
            [2, "stable-video-diffusion", "float32", "float16"],
        )
        self.assertEqual(set(manifest["files"]), FILES)
        self.assertEqual(read_json(self.package / "unet/config.json")["num_frames"], 3)
        self.assertEqual(len(read_json(self.package / "feature_extractor/preprocessor_config.json")["image_mean"]), 3)
        self.assertRegex(self.printed, "4 steps: (bit-equal|within)")

    def test_networks_serve_other_sizes_than_the_traced_one(self):
        torch.manual_seed(0)
        for network in NETWORKS:
            loaded = tracing.load_network(self.package / network.file, torch.float32)
            for size in SIZES:
                inputs = network.inputs(self.pipe, size)
                expected = network.reference(self.pipe, *inputs)
                with self.subTest(network=network.file, size=size):
                    torch.testing.assert_close(network.outputs(loaded(*inputs)), expected, rtol=1e-5, atol=1e-5)

    def test_the_unets_arguments_and_the_concatenations_to_cut_at(self):
        unet = torch.jit.load(self.package / "unet/model.pt")
        arguments = [argument.name for argument in unet.forward.schema.arguments][1:]
        self.assertEqual(arguments, ["sample", "timestep", "encoder_hidden_states", "added_time_ids"])
        self.assertEqual(places(unet), 6)

    def test_a_unet_of_four_levels_has_twelve_places(self):
        pipe = tiny_video_pipeline(levels=4)
        network = next(network for network in NETWORKS if network.file == "unet/model.pt")
        traced = tracing.trace_network(network, pipe)
        self.assertEqual(places(traced), 12)
        for size in SIZES[1:]:  # the first leaves the deepest level one pixel, and its norms one value a group
            inputs = network.inputs(pipe, size)
            torch.testing.assert_close(traced(*inputs), pipe.unet(*inputs).sample, rtol=1e-5, atol=1e-5)

    def test_halves_run_too(self):
        """In float16 the VAE's encoder runs in float32, as its configuration asks for, and its decoder doesn't."""
        for dtype, encoder in ("float16", "float32"), ("bfloat16", None):
            code, printed = run(self.source, self.folder / dtype, "--dtype", dtype)
            self.assertEqual(code, 0, printed)
            files = read_json(self.folder / dtype / "deepcache.json")["files"]
            self.assertEqual(files["vae/encoder.pt"].get("dtype"), encoder)
            self.assertNotIn("dtype", files["vae/decoder.pt"])

    def test_other_components_and_options_are_refused(self):
        source = self.broken()
        edit_json(source / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
        self.expect_refused(source, "unet is a UNet2DConditionModel; supported: UNetSpatioTemporalConditionModel")
        source = self.broken()
        shutil.rmtree(source / "feature_extractor")
        self.expect_refused(source, "component feature_extractor is missing")
        self.expect_refused(
            self.broken(), "a StableVideoDiffusionPipeline takes no --lora", "--lora", "file.safetensors"
        )
        source = self.broken()
        image_encoder(image_size=64).save_pretrained(source / "image_encoder")
        self.expect_refused(source, "image_size must be 224, as the pipeline has it, not 64")
        source = self.broken()
        (source / "unet/diffusion_pytorch_model.safetensors").unlink()
        self.expect_refused(source, "can't load")

    def test_a_decoder_that_differs_leaves_no_package(self):
        source, decoder = self.broken(), family_file.VideoDecoder.forward
        with mock.patch.object(family_file.VideoDecoder, "forward", lambda *args: decoder(*args).roll(1, 1)):
            code, printed = run(source, source.parent / "package")
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, r"vae/decoder.pt at .* off the pipeline's")
        self.assertEqual([entry.name for entry in source.parent.iterdir()], ["source"])


if __name__ == "__main__":
    unittest.main()
