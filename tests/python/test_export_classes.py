"""Tests of export.py for each pipeline class, and of measure_storage.py: python tests/python/test_export_classes.py"""

import contextlib
import io
import sys
import unittest
from pathlib import Path

import diffusers
import torch
from export_tests import ExportTest, edit_json, read_json, run, set_up

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import families  # noqa: E402
import measure_storage  # noqa: E402
import tiny_pipelines  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402

UPCAST = {"vae/decoder.pt": "float32", "vae/encoder.pt": "float32"}
ONE_LAYER = dict(unet=dict(layers_per_block=1, transformer_layers_per_block=1))
CLASSES = {
    "StableDiffusion": {"": "one_layer", "Img2Img": "one_layer", "Inpaint": "one_layer_inpaint"},
    "StableDiffusionXL": {"": "sdxl_one_layer", "Img2Img": "sdxl_one_layer_refiner", "Inpaint": "sdxl_one_layer"},
}


def setUpModule():
    variants = tiny_pipelines.VARIANTS
    variants["sdxl_one_layer"] = ONE_LAYER
    variants["sdxl_one_layer_refiner"] = variants["sdxl_refiner"] | dict(
        unet=variants["sdxl_refiner"]["unet"] | ONE_LAYER["unet"]
    )
    variants["one_layer_inpaint"] = dict(
        pipeline=diffusers.StableDiffusionInpaintPipeline, unet=dict(layers_per_block=1, in_channels=9)
    )
    set_up()


class SavedTest(ExportTest):
    def saved(self, name, parts, **options):
        """A folder of the class, of a tiny pipeline's parts."""
        pipe = tiny_pipeline(parts)
        components = {part: value for part, value in pipe.components.items() if value is not None}
        config = {"requires_aesthetics_score": True} if "refiner" in parts else {}
        missing = {part: None for part in ("tokenizer", "text_encoder") if part not in components}
        if "XL" not in name:
            missing |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        source = self.scratch() / "pipeline"
        getattr(diffusers, name)(**components, **missing, **config).save_pretrained(source, **options)
        return source


class ClassTest(SavedTest):
    def test_every_class(self):
        names = set()
        for prefix, tasks in CLASSES.items():
            for task, variant in tasks.items():
                name = f"{prefix}{task}Pipeline"
                names.add(name)
                with self.subTest(name=name):
                    out = self.scratch() / "package"
                    code, printed = run(self.saved(name, variant), out)
                    self.assertEqual(code, 0, printed)
                    self.assertRegex(printed, r"4 DDIM steps: (bit-equal|within)")
                    family = "stable-diffusion-xl" if "XL" in name else "stable-diffusion"
                    manifest = read_json(out / "deepcache.json")
                    self.assertEqual(manifest["family"], family)
                    self.assertEqual(read_json(out / "model_index.json")["_class_name"], name)
                    self.assertEqual("text_encoder/model.pt" in manifest["files"], "refiner" not in variant)
                    self.assertEqual("text_encoder_2/model.pt" in manifest["files"], "XL" in name)
        stable_diffusion = {name for name in families.FAMILIES if name.startswith(tuple(CLASSES))}
        self.assertEqual(names, stable_diffusion)

    def test_variant(self):
        source, out = self.saved("StableDiffusionPipeline", "one_layer", variant="fp16"), self.scratch() / "package"
        self.expect_refused(source, "diffusers can't load it: ")
        code, printed = run(source, out, "--variant", "fp16")
        self.assertEqual(code, 0, printed)
        self.assertTrue((out / "unet/model.pt").is_file())
        self.expect_refused(source, "diffusers can't load it: ", "--variant", "fp32")

    def test_vaes_that_are_taken_out_of_halves(self):
        """SDXL's, in which float16 overflows; its pipelines encode in float32 in bfloat16 too."""
        source = self.saved("StableDiffusionXLPipeline", "sdxl_one_layer")
        for force_upcast, dtype, expected in (
            (True, "float16", UPCAST),
            (True, "bfloat16", {"vae/encoder.pt": "float32"}),
            (False, "float16", {}),
            (False, "bfloat16", {}),
        ):
            with self.subTest(force_upcast=force_upcast, dtype=dtype):
                edit_json(source / "vae/config.json", force_upcast=force_upcast)
                out = self.scratch() / "package"
                code, printed = run(source, out, "--dtype", dtype)
                self.assertEqual(code, 0, printed)
                files = read_json(out / "deepcache.json")["files"]
                self.assertEqual({name: e["dtype"] for name, e in files.items() if "dtype" in e}, expected)
                for name in UPCAST:  # which the networks take, too
                    given = getattr(torch, expected.get(name, dtype))
                    image = torch.zeros(1, 4 if "decoder" in name else 3, 16, 16, dtype=given)
                    network = torch.jit.load(out / name)
                    for parameter in network.parameters():
                        parameter.data = parameter.data.to(given)  # as the loader casts them from storage
                    self.assertEqual(network(image).dtype, given)

    def test_vae_with_means(self):
        source = self.saved("StableDiffusionXLPipeline", "sdxl_one_layer")
        edit_json(source / "vae/config.json", latents_mean=[0.1, 0.2, 0.3, 0.4])
        self.expect_refused(source, "vae/config.json: latents_mean isn't supported in a StableDiffusionXLPipeline")
        edit_json(source / "vae/config.json", latents_mean=None, latents_std=[1.0, 2.0, 3.0, 4.0])
        self.expect_refused(source, "vae/config.json: latents_std isn't supported in a StableDiffusionXLPipeline")


class StorageTest(SavedTest):
    def measure(self, *arguments):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            code = measure_storage.main([str(argument) for argument in arguments])
        return code, out.getvalue()

    def test_every_task(self):
        for name, variant, options in (
            ("StableDiffusionPipeline", "one_layer", dict(variant="fp16")),
            ("StableDiffusionInpaintPipeline", "one_layer_inpaint", {}),
            ("StableDiffusionXLImg2ImgPipeline", "sdxl_one_layer_refiner", {}),
        ):
            with self.subTest(name=name):
                source, sheet = self.saved(name, variant, **options), self.scratch() / "sheet.png"
                flags = [part for option, value in options.items() for part in (f"--{option}", value)]
                code, printed = self.measure(
                    source, "heart", "sun", "--steps", 2, "--seeds", 0, 1, "--out", sheet, *flags
                )
                self.assertEqual(code, 0, printed)
                self.assertRegex(printed, r"float32: worst inf dB, median inf, best inf of 4 pictures;")
                self.assertRegex(printed, r"bfloat16: worst \d+\.\d dB")  # float16 holds the tiny weights exactly
                self.assertTrue(sheet.is_file())

    def test_folders_that_are_no_good(self):
        code, printed = self.measure(self.folder / "nowhere", "heart")
        self.assertEqual(code, 2)
        self.assertRegex(printed, "^measure_storage.py: .*model_index.json is missing\n$")


if __name__ == "__main__":
    unittest.main()
