"""Tests of tools/export.py on small random-weight pipelines: python tests/python/test_export.py"""

import contextlib
import hashlib
import io
import re
import shutil
import sys
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import torch
from diffusers import KDPM2DiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from export_tests import SIZES, ExportTest, edit_json, read_json, run, set_up

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import export  # noqa: E402
import families  # noqa: E402
import tracing  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402

PLACES = {"sd1": 12, "sd2": 12, "one_layer": 8, "sdxl": 9}  # skip concatenations of the variants
FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.pt",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/model.pt",
    "vae/config.json",
    "vae/decoder.pt",
    "vae/encoder.pt",
}
XL_FILES = FILES | {name.replace("/", "_2/") for name in FILES if name.startswith(("text_encoder/", "tokenizer/"))}


def setUpModule():
    set_up(*PLACES)


class PackageTest(ExportTest):
    def test_manifest_lists_every_file_with_size_and_hash(self):
        for variant in PLACES:
            package = self.package(variant)
            family, files = ("stable-diffusion-xl", XL_FILES) if variant == "sdxl" else ("stable-diffusion", FILES)
            manifest = read_json(package / "deepcache.json")
            self.assertEqual(
                [manifest[key] for key in ("format_version", "family", "dtype", "storage_dtype")],
                [2, family, "float32", "float16"],
            )
            self.assertEqual(manifest["exporter"]["torch"], torch.__version__)
            self.assertEqual(set(manifest["files"]), files)
            present = {file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file()}
            self.assertEqual(present, files | {"deepcache.json"})
            for name, entry in manifest["files"].items():
                content = (package / name).read_bytes()
                self.assertEqual(entry, {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name)

    def test_networks_serve_other_sizes_than_the_traced_one(self):
        torch.manual_seed(0)
        for variant, pipe in self.pipes.items():
            for network in families.FAMILIES[type(pipe).__name__].networks:
                loaded = tracing.load_network(self.package(variant) / network.file, torch.float32)
                for size in SIZES:
                    inputs = network.inputs(pipe, size)
                    expected = network.reference(pipe, *inputs)
                    with self.subTest(variant=variant, network=network.file, size=size):
                        torch.testing.assert_close(network.outputs(loaded(*inputs)), expected, rtol=1e-5, atol=1e-5)

    def test_unet_takes_integer_and_fractional_timesteps(self):
        pipe = self.pipes["sd1"]
        unet = tracing.load_network(self.package("sd1") / "unet/model.pt", torch.float32)
        sample, _, embeddings = families.unet_inputs(pipe, SIZES[0])
        for timestep in torch.tensor(500), torch.tensor(500.5):
            expected = pipe.unet(sample, timestep, embeddings).sample
            torch.testing.assert_close(unet(sample, timestep, embeddings), expected, rtol=1e-5, atol=1e-5)

    def test_unet_keeps_the_names_and_the_concatenations_to_cut_at(self):
        for variant, places in PLACES.items():
            unet = torch.jit.load(self.package(variant) / "unet/model.pt")
            names = {name for name, _ in unet.named_modules()}
            for block, parts in enumerate(self.pipes[variant].unet.up_blocks):
                for layer in range(len(parts.resnets)):
                    self.assertIn(f"up_blocks.{block}.resnets.{layer}", names)
            cats = [node for node in unet.inlined_graph.nodes() if node.kind() == "aten::cat"]
            pairs = [n for n in cats if len(list(n.inputsAt(0).node().inputs())) == 2 and n.inputsAt(1).toIValue() == 1]
            self.assertEqual(len(pairs), places, variant)

    def test_weights_are_stored_in_the_storage_dtype(self):
        for name in "text_encoder/model.pt", "unet/model.pt", "vae/decoder.pt", "vae/encoder.pt":
            network = torch.jit.load(self.package("sd1") / name)
            self.assertEqual({parameter.dtype for parameter in network.parameters()}, {torch.float16}, name)
            self.assertFalse(any(parameter.requires_grad for parameter in network.parameters()), name)

    def test_files_name_no_folder_of_the_exporting_machine(self):
        for name in "text_encoder/model.pt", "unet/model.pt", "vae/decoder.pt", "vae/encoder.pt":
            with zipfile.ZipFile(self.package("sd2") / name) as archive:
                for entry in archive.namelist():
                    self.assertNotIn(b"site-packages", archive.read(entry), f"{name}: {entry}")

    def test_text_encoders_give_every_layers_states(self):
        torch.manual_seed(0)
        ids = torch.randint(0, 500, (2, 24))
        for variant, encoder, normalized in ("sd2", "text_encoder", True), ("sdxl", "text_encoder_2", False):
            states, pooled = tracing.load_network(self.package(variant) / encoder / "model.pt", torch.float32)(ids)
            module = getattr(self.pipes[variant], encoder)
            expected = module(ids, output_hidden_states=True)
            self.assertEqual(len(states), len(expected.hidden_states))
            for state, reference in zip(states, expected.hidden_states, strict=True):
                reference = module.text_model.final_layer_norm(reference) if normalized else reference
                torch.testing.assert_close(state, reference, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(pooled, families.pooled(expected), rtol=1e-5, atol=1e-5)

    def test_settings_come_along(self):
        package = self.package("sd2")
        tokenizer = read_json(package / "tokenizer/tokenizer_config.json")
        scheduler = read_json(package / "scheduler/scheduler_config.json")
        unet = read_json(package / "unet/config.json")
        self.assertEqual(tokenizer["pad_token"], "!")
        self.assertEqual(scheduler["prediction_type"], "v_prediction")
        self.assertEqual([unet["use_linear_projection"], unet["cross_attention_dim"]], [True, 48])

    def test_configs_are_what_the_pipeline_runs_with(self):
        """Of a folder as diffusers 0.6.0 wrote it, which the pipeline puts right in memory."""
        source = self.broken(
            _name_or_path="/home/someone/sd", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"]
        )
        older = dict(_diffusers_version="0.6.0", _name_or_path="/home/someone/sd")
        edit_json(source / "unet/config.json", sample_size=32, use_linear_projection=..., **older)
        edit_json(source / "vae/config.json", scaling_factor=..., force_upcast=..., **older)
        edit_json(
            source / "scheduler/scheduler_config.json", steps_offset=..., clip_sample=..., timestep_spacing=..., **older
        )
        edit_json(
            source / "text_encoder/config.json", _name_or_path="/home/someone/sd", dtype=..., torch_dtype="float32"
        )
        packages = [self.scratch() / "package" for _ in range(2)]
        for package in packages:
            code, printed = run(source, package)
            self.assertEqual(code, 0, printed)

        pipe = StableDiffusionPipeline.from_pretrained(source, safety_checker=None)
        unet, vae, scheduler, text_encoder, index = (
            read_json(packages[0] / name)
            for name in (
                "unet/config.json",
                "vae/config.json",
                "scheduler/scheduler_config.json",
                "text_encoder/config.json",
                "model_index.json",
            )
        )
        self.assertEqual([unet["sample_size"], pipe.unet.config.sample_size], [64, 64])
        self.assertEqual([vae["scaling_factor"], pipe.vae.config.scaling_factor], [0.18215, 0.18215])
        self.assertEqual([scheduler["steps_offset"], scheduler["clip_sample"]], [1, False])
        self.assertNotIn("timestep_spacing", scheduler)  # another scheduler's own default counts, as in Python
        self.assertEqual([text_encoder["hidden_act"], text_encoder["dtype"]], ["quick_gelu", "float32"])
        self.assertEqual(index["safety_checker"], [None, None])  # which the package doesn't have
        for written, component in (unet, pipe.unet), (vae, pipe.vae), (scheduler, pipe.scheduler):
            for key in written.keys() - {"_diffusers_version"}:
                value = component.config[key] if key[0] != "_" else type(component).__name__
                self.assertEqual(written[key], list(value) if isinstance(value, tuple) else value, key)
        for file in packages[0].rglob("*.json"):
            for folder in "/home/someone", str(source):
                self.assertNotIn(folder, file.read_text(), file)
            if file.name != "deepcache.json":  # networks differ between exports of one process, by counted class names
                self.assertEqual(file.read_bytes(), (packages[1] / file.relative_to(packages[0])).read_bytes(), file)

    def test_scheduler_that_the_library_lacks_is_warned_of(self):
        source, out = self.broken(scheduler=["diffusers", "KDPM2DiscreteScheduler"]), self.scratch() / "package"
        KDPM2DiscreteScheduler.from_config(self.pipes["one_layer"].scheduler.config).save_pretrained(
            source / "scheduler"
        )
        code, printed = run(source, out)
        self.assertEqual(code, 0, printed)
        self.assertRegex(printed, "warning: .* KDPM2DiscreteScheduler, .* --scheduler ddim or plms or ")
        self.assertEqual(read_json(out / "scheduler/scheduler_config.json")["_class_name"], "KDPM2DiscreteScheduler")
        self.assertEqual(read_json(out / "model_index.json")["scheduler"], ["diffusers", "KDPM2DiscreteScheduler"])
        for printed in self.printed.values():
            self.assertNotIn("warning", printed)

    def test_known_schedulers_are_those_of_the_library(self):
        source = (ROOT / "src/schedulers/scheduler.cpp").read_text()
        names = set(re.findall(r'SchedulerClass\{"([^"]+)"', source))
        self.assertEqual(families.SCHEDULERS.keys(), {name for name in names if name.endswith("Scheduler")})
        self.assertLessEqual(set(families.SCHEDULERS.values()), names)

    def test_summary_says_what_was_checked(self):
        for variant, printed in self.printed.items():
            networks, files = (5, 19) if variant == "sdxl" else (4, 13)
            checks = re.findall(r"\.pt: .* MB, (bit-equal|within \S+) at 4 sizes", printed)
            self.assertEqual(len(checks), networks, variant)
            self.assertRegex(printed, r"4 DDIM steps: (bit-equal|within)")
            # The tiny weights are rounded to float16 already. Where they moved to, MKL's last bits may differ.
            self.assertRegex(printed, r"(inf|1[0-9]{2}\.[0-9]) dB")
            self.assertIn(f"{files} files", printed)

    def test_weights_are_in_memory_once(self):
        """In the pipeline and in the network that was read back, whatever the dtypes."""
        for storage in torch.float32, torch.float16:
            pipe = tiny_pipeline("one_layer")
            before = {name: tensor.clone() for name, tensor in pipe.unet.named_parameters()}
            traced = tracing.trace_network(families.UNET, pipe)
            loaded = tracing.save_network(traced, torch.float32, storage, self.scratch() / "unet.pt")
            read = dict(loaded.named_parameters())
            self.assertEqual(read.keys(), before.keys())
            for name, tensor in pipe.unet.named_parameters():
                self.assertEqual(tensor.data_ptr(), read[name].data_ptr(), name)
                self.assertTrue(torch.equal(tensor, before[name]), name)

    def test_progress_is_a_line_for_each_stage_where_no_terminal_is(self):
        for variant, printed in self.printed.items():
            stages = re.findall(r"^\[ *\d+ s\] (.*)$", printed, re.MULTILINE)
            self.assertRegex(stages[0], "loading .*pipeline")
            for stage in (
                "4 DDIM steps of the pipeline",
                "4 DDIM steps of the pipeline, its weights rounded to float16",
                "unet/model.pt: tracing",
                "unet/model.pt: saving",
                "unet/model.pt: checking size 1 of 4",
                "unet/model.pt: checking size 4 of 4",
                "4 DDIM steps on the exported networks",
            ):
                self.assertEqual(stages.count(stage), 1, f"{variant}: {stage}")

    def test_progress_is_one_line_on_a_terminal(self):
        with mock.patch("sys.stderr", io.StringIO()) as stream, contextlib.redirect_stdout(stream):
            stream.isatty = lambda: True
            progress = export.Progress()
            progress.stage("tracing")
            progress.stage("saving")
            progress.say("saved")
        clear = "\r\x1b[K"
        self.assertEqual(stream.getvalue(), f"{clear}[   0 s] tracing{clear}[   0 s] saving{clear}saved\n")

    def test_halves_run_too(self):
        for dtype in "bfloat16", "float16":
            out = self.scratch() / "package"
            code, printed = run(self.source("one_layer"), out, "--dtype", dtype)
            self.assertEqual(code, 0, printed)
            manifest = read_json(out / "deepcache.json")
            self.assertEqual([manifest["dtype"], manifest["storage_dtype"]], [dtype, dtype])
            unet = torch.jit.load(out / "unet/model.pt")
            inputs = [tensor.to(export.DTYPES[dtype]) for tensor in (torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32))]
            self.assertEqual(unet(inputs[0], torch.tensor(7), inputs[1]).dtype, export.DTYPES[dtype])


class FailureTest(ExportTest):
    def test_no_pipeline_folder(self):
        self.expect_refused(self.folder / "nowhere", "no such file or folder")
        self.expect_refused(self.scratch(), "model_index.json is missing")

    def test_unreadable_index(self):
        source = self.broken()
        (source / "model_index.json").write_text("{")
        self.expect_refused(source, "_class_name")

    def test_unknown_class_names_the_known_ones(self):
        source = self.broken(_class_name="KandinskyPipeline")
        self.expect_refused(source, "KandinskyPipeline isn't known; known: StableDiffusionPipeline")

    def test_missing_component(self):
        self.expect_refused(self.broken(unet=[None, None]), "component unet is missing")
        source = self.broken()
        shutil.rmtree(source / "vae")
        self.expect_refused(source, "component vae is missing")

    def test_missing_weights(self):
        source = self.broken()
        (source / "unet/diffusion_pytorch_model.safetensors").unlink()
        self.expect_refused(source, "can't load")

    def test_component_of_another_class(self):
        source = self.broken(text_encoder=["transformers", "T5EncoderModel"])
        self.expect_refused(source, "text_encoder is a T5EncoderModel; supported: CLIPTextModel")

    def test_unet_with_further_inputs(self):
        source = self.broken()
        shutil.rmtree(source / "unet")
        unet = UNet2DConditionModel.from_config(self.pipes["one_layer"].unet.config, time_cond_proj_dim=8)
        unet.save_pretrained(source / "unet")
        self.expect_refused(source, "time_cond_proj_dim isn't supported")

    def test_existing_folder(self):
        out = self.scratch() / "package"
        out.mkdir()
        (out / "note.txt").write_text("mine")
        self.expect_refused(self.source("one_layer"), "--force", out=out)
        self.expect_refused(self.source("one_layer"), "is no package", "--force", out=out)

    def test_unwritable_folder(self):
        parent = self.scratch() / "file"
        parent.write_text("")
        self.expect_refused(self.source("one_layer"), "can't be written", out=parent / "package")

    def test_force_replaces_a_package(self):
        out = self.scratch() / "package"
        shutil.copytree(self.package("sd1"), out)
        code, printed = run(self.source("one_layer"), out, "--force")
        self.assertEqual(code, 0, printed)
        self.assertEqual(read_json(out / "deepcache.json")["storage_dtype"], "float32")
        self.assertEqual([entry.name for entry in out.parent.iterdir()], ["package"])

    def expect_failed(self, patch, message):
        out = self.scratch() / "package"
        with patch:
            code, printed = run(self.source("one_layer"), out)
        self.assertEqual(code, 1, printed)
        self.assertRegex(printed, message)
        self.assertEqual(list(out.parent.iterdir()), [])

    def expect_states_refused(self, change, message):
        def changed(view, original):
            return lambda ids: tuple(change(tensor) for tensor in normalized(view, original)(ids))

        normalized = families.normalized_states
        self.expect_failed(mock.patch.object(families, "normalized_states", changed), message)

    def test_network_that_differs_leaves_no_package(self):
        self.expect_states_refused(lambda states: states * 1.01, r"text_encoder/model.pt at .* off the pip")

    def test_network_that_is_not_a_number_leaves_no_package(self):
        self.expect_states_refused(lambda states: states / 0 * 0, "off the pipeline's by nan")

    def test_weight_that_differs_in_the_file_leaves_no_package(self):
        load = tracing.load_network

        def one_bit_off(file):
            network = load(file)
            dict(network.named_parameters())["text_model.embeddings.token_embedding.weight"].data.view(torch.int32)[
                7, 3
            ] ^= 1
            return network

        self.expect_failed(
            mock.patch.object(tracing, "load_network", one_bit_off),
            "text_encoder/model.pt: read back, text_model.embeddings.token_embedding.weight isn't what was saved",
        )

    def test_weight_that_is_not_in_the_file_leaves_no_package(self):
        load = tracing.load_network
        lacking = torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 1))
        self.expect_failed(
            mock.patch.object(tracing, "load_network", lambda file: lacking if "vae" in str(file) else load(file)),
            "vae/decoder.pt: read back, .* isn't what was saved",
        )

    def test_full_disk_leaves_no_package(self):
        full = mock.patch.object(export, "write_manifest", side_effect=OSError("no space left on device"))
        self.expect_failed(full, "no space left")


if __name__ == "__main__":
    unittest.main()
