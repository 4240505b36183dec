"""Tests of what tools/export.py fuses and adds: python tests/python/test_export_adapters.py"""

import sys
import unittest
from pathlib import Path

import torch
from export_tests import SIZES, ExportTest, read_json, run, set_up
from safetensors.torch import save_file
from transformers import CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import families  # noqa: E402
import tiny_adapters  # noqa: E402
import tracing  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402


def setUpModule():
    set_up("one_layer", "sd1", "sd2", "sdxl")


class AdapterTest(ExportTest):
    def exported(self, variant, *options):
        """The package of a variant exported with options, and what was printed."""
        out = self.scratch() / "package"
        code, printed = run(self.source(variant), out, *options)
        self.assertEqual(code, 0, printed)
        return out, printed

    def expect_networks(self, package, pipe):
        """The package's text encoders and UNet compute what the pipeline's do."""
        torch.manual_seed(0)
        for network in families.FAMILIES[type(pipe).__name__].networks:
            if network.file.startswith("vae") or not (package / network.file).exists():
                continue
            inputs = network.inputs(pipe, SIZES[1])
            loaded = tracing.load_network(package / network.file, torch.float32)
            actual, expected = network.outputs(loaded(*inputs)), network.reference(pipe, *inputs)
            torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5, msg=network.file)
            names = " ".join(name for name, _ in loaded.named_parameters())
            self.assertNotRegex(names, "lora|base_layer")
            self.assertIn("q_proj" if "text" in network.file else "up_blocks.0.resnets.0.conv1", names)

    def test_loras_are_fused_each_with_its_scale(self):
        """What is compared with has them beside the weights, unfused."""
        for variant in "one_layer", "sdxl":
            pipe, folder = tiny_pipeline(variant), self.scratch()
            files = {"peft": folder / "peft.safetensors", "kohya": folder / "ko:hya.safetensors"}
            tiny_adapters.peft_lora(pipe, files["peft"])
            tiny_adapters.kohya_lora(pipe, files["kohya"])
            options = "--lora", f"{files['peft']}:0.7", "--lora", f"{files['kohya']}:-0.4", "--lora", files["kohya"]
            package, printed = self.exported(variant, *options)
            self.assertRegex(printed, r"peft\.safetensors: \d+ layers, fused with scale 0\.7\n")
            self.assertRegex(printed, r"ko:hya\.safetensors: \d+ layers, fused with scale -0\.4\n")
            self.assertRegex(printed, r"ko:hya\.safetensors: \d+ layers, fused with scale 1\n")
            untouched = tracing.load_network(self.package(variant) / "unet/model.pt", torch.float32)
            inputs = families.FAMILIES[type(pipe).__name__].networks[-3].inputs(pipe, SIZES[0])
            adapted = tracing.load_network(package / "unet/model.pt", torch.float32)
            self.assertGreater((untouched(*inputs) - adapted(*inputs)).abs().max(), 0.1)
            tiny_adapters.load_adapters(pipe, [f"{files['peft']}:0.7", f"{folder}/ko:hya.safetensors:0.6"])
            self.expect_networks(package, pipe)

    def test_textual_inversion_of_several_vectors(self):
        pipe, folder = tiny_pipeline("one_layer"), self.scratch()
        vectors = tiny_adapters.concept(pipe.text_encoder, 3)
        save_file({"<cat>": vectors}, folder / "cat.safetensors")
        option = f"{folder}/cat.safetensors"
        package, printed = self.exported(
            "one_layer", "--textual-inversion", option, "--textual-inversion", f"{option}:<a:b>"
        )
        self.assertIn("cat.safetensors: token <cat>, 3 vectors\n", printed)
        self.assertIn("cat.safetensors: token <a:b>, 3 vectors\n", printed)
        size = len(pipe.tokenizer)
        ids = CLIPTokenizer.from_pretrained(package / "tokenizer")("<cat> <cat>_1 <a:b>_2").input_ids[1:-1]
        self.assertEqual(ids, [size, size + 1, size + 5])
        self.assertEqual(read_json(package / "text_encoder/config.json")["vocab_size"], size + 6)
        states = tracing.load_network(package / "text_encoder/model.pt", torch.float32)(
            torch.arange(size, size + 6)[None]
        )
        self.assertEqual(states[0].shape[2], 6)
        for token in None, "<a:b>":
            pipe.load_textual_inversion(option, token=token)
        self.expect_networks(package, pipe)

    def test_textual_inversion_for_two_text_encoders(self):
        pipe, folder = tiny_pipeline("sdxl"), self.scratch()
        vectors = {
            key: tiny_adapters.concept(encoder, 2)
            for key, encoder in (("clip_l", pipe.text_encoder), ("clip_g", pipe.text_encoder_2))
        }
        save_file(vectors, folder / "style.safetensors")
        package, printed = self.exported("sdxl", "--textual-inversion", f"{folder}/style.safetensors:<style>")
        self.assertIn("token <style>, 2 vectors\n", printed)
        for key, suffix in ("clip_l", ""), ("clip_g", "_2"):
            parts = {part: getattr(pipe, part + suffix) for part in ("tokenizer", "text_encoder")}
            pipe.load_textual_inversion({"<style>": vectors[key]}, token="<style>", **parts)
            tokenizer = CLIPTokenizer.from_pretrained(package / f"tokenizer{suffix}")
            self.assertEqual(len(tokenizer("<style> <style>_1").input_ids), 4)
        self.expect_networks(package, pipe)

    def test_the_refiner_takes_what_is_for_its_one_text_encoder(self):
        pipe, folder = tiny_pipeline("sdxl_refiner"), self.scratch()
        pipe.save_pretrained(self.source("sdxl_refiner"))
        vectors = tiny_adapters.concept(pipe.text_encoder_2, 2)
        save_file({"clip_l": torch.ones(2, 32), "clip_g": vectors}, folder / "two.safetensors")
        save_file({"<one>": vectors}, folder / "one.safetensors")
        files = [
            "--textual-inversion",
            f"{folder}/two.safetensors:<two>",
            "--textual-inversion",
            f"{folder}/one.safetensors",
        ]
        package, _ = self.exported("sdxl_refiner", *files)
        for token in "<two>", "<one>":
            parts = dict(tokenizer=pipe.tokenizer_2, text_encoder=pipe.text_encoder_2)
            pipe.load_textual_inversion({token: vectors}, token=token, **parts)
        self.assertFalse((package / "text_encoder").exists())
        self.expect_networks(package, pipe)

    def test_textual_inversion_in_older_files(self):
        """diffusers' learned_embeds.bin, and AUTOMATIC1111's, as far as they hold tensors, strings and numbers."""
        pipe, folder = tiny_pipeline("one_layer"), self.scratch()
        vector = tiny_adapters.concept(pipe.text_encoder, 1)
        torch.save({"<sun>": vector}, folder / "learned_embeds.bin")
        parameter = torch.nn.Parameter(vector[None])
        torch.save({"string_to_param": {"*": parameter}, "name": "moon", "step": 5}, folder / "moon.pt")
        files = [folder / "learned_embeds.bin", folder / "moon.pt"]
        options = [part for file in files for part in ("--textual-inversion", file)]
        package, printed = self.exported("one_layer", *options)
        self.assertRegex(printed, "token <sun>, 1 vector\n(.*\n)*.*token moon, 1 vector\n")
        for file in files:
            pipe.load_textual_inversion(file)
        self.expect_networks(package, pipe)

    def test_refused_loras(self):
        folder, message = self.scratch(), "--lora .*"
        tiny_adapters.kohya_lora(self.pipes["one_layer"], folder / "good.safetensors")
        for variant in "sd2", "sdxl", "sd1":
            tiny_adapters.kohya_lora(self.pipes[variant], folder / f"{variant}.safetensors")
        save_file({"a": torch.ones(2)}, folder / "other.safetensors")
        (folder / "damaged.safetensors").write_text("no tensors")
        (folder / "pickled.bin").write_text("")
        dora = {
            "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
            "lora_unet_conv_in.dora_scale": torch.ones(8),
        }
        save_file(dora, folder / "dora.safetensors")
        for name, reason in {
            "nowhere.safetensors": "there is no such file",
            "nowhere.safetensors:0.5": "there is no such file",
            "good.safetensors:strong": "scale must be a number, such as 0.8, got 'strong'",
            "good.safetensors:": "scale must be a number, such as 0.8, got ''",
            "good.safetensors:nan": "scale must be a number",
            "pickled.bin": "only safetensors files are read",
            "damaged.safetensors": "it isn't for this pipeline, or no LoRA",
            "other.safetensors": "it isn't for this pipeline, or no LoRA",
            "dora.safetensors": "DoRA",
            "sd2.safetensors": "it isn't for this pipeline",
            "sdxl.safetensors": "it isn't for this pipeline",
            "sd1.safetensors": r"a place for \d+ of its \d+ layers|isn't for this pipeline, or no LoRA",
        }.items():
            with self.subTest(name):
                self.expect_refused(self.source("one_layer"), message + reason, "--lora", folder / name)

    def test_refused_textual_inversions(self):
        folder, encoder = self.scratch(), self.pipes["one_layer"].text_encoder
        vector = tiny_adapters.concept(encoder, 1)
        save_file({"<sun>": vector}, folder / "good.safetensors")
        save_file({"a": vector}, folder / "word.safetensors")
        save_file({"<sun>": torch.ones(2, 31)}, folder / "narrow.safetensors")
        save_file({"<sun>": torch.ones(2, 2, 32)}, folder / "cube.safetensors")
        save_file({"<sun>": torch.ones(0, 32)}, folder / "empty.safetensors")
        save_file({"<a>": vector, "<b>": vector.clone()}, folder / "two.safetensors")
        save_file({"clip_l": vector, "clip_g": torch.ones(48)}, folder / "xl.safetensors")
        (folder / "damaged.safetensors").write_text("no tensors")
        torch.save({"<sun>": Path("unknown")}, folder / "unknown.bin")
        torch.save({"<sun>": "text"}, folder / "text.bin")
        torch.save([vector], folder / "list.bin")
        for name, reason in {
            "nowhere.safetensors": "there is no such file",
            "good.safetensors:": "the token must be a word, got ''",
            "good.safetensors:face": "face already in tokenizer vocabulary",
            "word.safetensors": "a already in tokenizer vocabulary",
            "narrow.safetensors": r"embeddings are of width 32, got \[2, 31\]",
            "cube.safetensors": r"width 32, got \[2, 2, 32\]",
            "empty.safetensors": r"width 32, got \[0, 32\]",
            "two.safetensors": "there must be one embedding, got <a>, <b>",
            "xl.safetensors:<sun>": "it is SDXL's, and this pipeline has one text encoder",
            "damaged.safetensors": "it can't be read",
            "unknown.bin": "it can't be read",
            "text.bin": "width 32, got str",
            "list.bin": "there must be embeddings under names, got list",
        }.items():
            with self.subTest(name):
                option = "--textual-inversion", folder / name
                self.expect_refused(self.source("one_layer"), "--textual-inversion .*" + reason, *option)
        twice = ("--textual-inversion", folder / "good.safetensors") * 2
        self.expect_refused(self.source("one_layer"), "<sun> already in tokenizer vocabulary", *twice)
        xl = "--textual-inversion", folder / "xl.safetensors"
        self.expect_refused(self.source("sdxl"), "the file has no name for its token, say FILE:TOKEN", *xl)


if __name__ == "__main__":
    unittest.main()
