"""Tests of tools/export.py on small checkpoints in CompVis's layout.

python tests/python/test_export_latent_diffusion.py
"""

import copy
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import torch
import yaml
from export_tests import read_json, run
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import export  # noqa: E402
import tracing  # noqa: E402
from class_conditional import PARAMS, tiny_model, write_checkpoint  # noqa: E402

UNET, VAE, CLASSES = "unet_config", "first_stage_config", "cond_stage_config"
FIRST = "model.diffusion_model.input_blocks.1.0.in_layers.0.weight"


def with_params(edits):
    """PARAMS with changes by path, such as "unet_config.params.num_heads"; those given as ... are taken away."""
    params = copy.deepcopy(PARAMS)
    for path, value in edits.items():
        *places, last = path.split(".")
        target = params
        for place in places:
            target = target[place]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return params


class Harmful:
    """What would run code if it were unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path(LatentDiffusionExportTest.folder / "harm"),))


def setUpModule():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    LatentDiffusionExportTest.folder = Path(folder.name)
    write_checkpoint(tiny_model(), LatentDiffusionExportTest.folder / "source")
    code, printed = run(
        LatentDiffusionExportTest.folder / "source", LatentDiffusionExportTest.folder / "package",
        "--storage-dtype", "float16",
    )  # fmt: skip
    assert code == 0, printed


class LatentDiffusionExportTest(unittest.TestCase):
    folder = None

    def scratch(self):
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def source(self):
        """A copy of the checkpoint and its configuration."""
        source = self.scratch() / "source"
        shutil.copytree(self.folder / "source", source)
        return source

    def edited(self, **params):
        """The same with another configuration; dots are underlined twice."""
        source = self.source()
        settings = {"model": {"target": "x.LatentDiffusion", "params": with_params(
            {path.replace("__", "."): value for path, value in params.items()}
        )}}  # fmt: skip
        (source / "config.yaml").write_text(yaml.safe_dump(settings))
        return source

    def expect_refused(self, source, message, *options):
        out = self.scratch() / "package"
        code, printed = run(source, out, *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertEqual(list(out.parent.iterdir()), [])

    def expect_same_as_the_original(self, package, model):
        """At sizes that the original can run: its up-sampling doubles, so the strides must divide them."""
        networks = {
            name: tracing.load_network(package / f"{name}.pt", torch.float32)
            for name in ("class_embedder/model", "unet/model", "vae/decoder")
        }
        torch.manual_seed(0)
        for batch, height, width in ((1, 8, 8), (3, 4, 12)):
            labels = torch.randint(0, 11, (batch,))
            context = model.cond_stage_model(labels)
            self.assertTrue(networks["class_embedder/model"](labels).equal(context))
            sample = torch.randn(batch, 3, height, width)
            for timestep in 1, 501, 999:
                expected = model.model.diffusion_model(sample, torch.full((batch,), timestep), context)[0]
                actual = networks["unet/model"](sample, torch.tensor(timestep), context)
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
            decoded = networks["vae/decoder"](sample)
            torch.testing.assert_close(decoded, model.first_stage_model.decode(sample), rtol=1e-5, atol=1e-5)

    def test_package(self):
        manifest = read_json(self.folder / "package/deepcache.json")
        self.assertEqual(
            [manifest[key] for key in ("format_version", "family", "dtype", "storage_dtype")],
            [2, "class-conditional", "float32", "float16"],
        )
        self.assertEqual(
            set(manifest["files"]),
            {"scheduler/scheduler_config.json", "class_embedder/config.json", "class_embedder/model.pt"}
            | {"unet/config.json", "unet/model.pt", "vae/config.json", "vae/decoder.pt"},
        )
        scheduler = read_json(self.folder / "package/scheduler/scheduler_config.json")
        self.assertEqual(scheduler["_class_name"], "CompVisDDIMScheduler")
        self.assertEqual([scheduler[key] for key in ("beta_start", "beta_end")], [0.0015, 0.0195])
        self.assertEqual(read_json(self.folder / "package/vae/config.json")["scaling_factor"], 0.8)
        self.assertEqual(read_json(self.folder / "package/class_embedder/config.json")["n_classes"], 11)
        network = torch.jit.load(self.folder / "package/unet/model.pt")
        names = [argument.name for argument in network.forward.schema.arguments][1:]
        self.assertEqual(names, ["sample", "timestep", "encoder_hidden_states"])

    def test_networks_are_the_originals(self):
        self.expect_same_as_the_original(self.folder / "package", tiny_model())

    def test_other_shapes_of_the_same_network(self):
        edits = {
            "unet_config.params.channel_mult": [1, 2, 2],
            "unet_config.params.num_res_blocks": 2,
            "unet_config.params.attention_resolutions": [4, 1],
            "unet_config.params.transformer_depth": 2,
            "unet_config.params.num_head_channels": 16,
            "unet_config.params.num_heads": ...,
            "first_stage_config.params.ddconfig.ch_mult": [1, 2, 2],
            "first_stage_config.params.ddconfig.z_channels": 5,
            "first_stage_config.params.ddconfig.num_res_blocks": 2,
            "scale_factor": ...,
        }
        params = with_params(edits)
        model, folder = tiny_model(params), self.scratch()
        write_checkpoint(model, folder / "source", params)
        code, printed = run(folder / "source", folder / "package")
        self.assertEqual(code, 0, printed)
        self.expect_same_as_the_original(folder / "package", model)
        self.assertEqual(read_json(folder / "package/vae/config.json")["scaling_factor"], 1)

    def test_file_and_configuration_by_name(self):
        source, weights = self.source(), self.scratch() / "weights"
        weights.mkdir()
        state = torch.load(source / "model.ckpt", weights_only=True)["state_dict"]
        save_file(state, weights / "model.safetensors")
        out = self.scratch() / "package"
        code, printed = run(weights / "model.safetensors", out, "--config", source / "config.yaml",
                            "--storage-dtype", "float16")  # fmt: skip
        self.assertEqual(code, 0, printed)
        self.expect_same_as_the_original(out, tiny_model())
        self.expect_refused(
            weights / "model.safetensors", "need their YAML file, --config; a Stable Diffusion in one file"
        )
        for name in "a.yaml", "b.yaml":
            (weights / name).write_text("")
        self.expect_refused(weights, "one configuration; else name it, --config .* got a.yaml, b.yaml")

    def test_bfloat16_runs_too(self):
        code, printed = run(self.source(), self.scratch() / "package", "--dtype", "bfloat16")
        self.assertEqual(code, 0, printed)

    def test_code_in_a_checkpoint_is_not_run(self):
        source = self.source()
        content = torch.load(source / "model.ckpt", weights_only=True)
        torch.save(content | {"callbacks": Harmful()}, source / "model.ckpt")
        self.expect_refused(source, "more than tensors, numbers and text, which isn't loaded, as it could run code: ")
        self.assertFalse((self.folder / "harm").exists())

    def test_a_checkpoint_of_lightning(self):
        """Which names the class of a callback among its records."""
        lightning = type(sys)("pytorch_lightning.callbacks.model_checkpoint")
        lightning.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": lightning.__name__})
        source, names = self.source(), lightning.__name__.split(".")
        content = torch.load(source / "model.ckpt", weights_only=True)
        modules = {".".join(names[: i + 1]): type(sys)(name) for i, name in enumerate(names)}
        sys.modules |= modules | {lightning.__name__: lightning}
        torch.save(content | {"callbacks": {lightning.ModelCheckpoint: {"best": 1}}}, source / "model.ckpt")
        for name in modules:
            del sys.modules[name]
        code, printed = run(source, self.scratch() / "package")
        self.assertEqual(code, 0, printed)

    def change_weights(self, change):
        source = self.source()
        content = torch.load(source / "model.ckpt", weights_only=True)
        change(content["state_dict"])
        torch.save(content, source / "model.ckpt")
        return source

    def test_weights_that_do_not_fit(self):
        source = self.change_weights(lambda weights: weights.pop(FIRST))
        self.expect_refused(source, f"weights are missing that .*: {FIRST}, 1 in all")
        source = self.change_weights(lambda weights: weights.update({FIRST: torch.zeros(7)}))
        self.expect_refused(source, r"in_layers.0.weight has the shape \[7\]; the configuration asks for \[32\]")
        further = "model.diffusion_model.label_emb.weight"
        source = self.change_weights(lambda weights: weights.update({further: torch.zeros(7)}))
        self.expect_refused(source, f"no place for {further}")
        source = self.edited(unet_config__params__num_res_blocks=2)
        self.expect_refused(source, "weights|shape")

    def test_other_layouts(self):
        for prefix, name in (("model.diffusion_model.", "unet."), ("first_stage_model.", "vae.")):

            def rename(weights, prefix=prefix, name=name):
                for key in [key for key in weights if key.startswith(prefix)]:
                    weights[name + key.removeprefix(prefix)] = weights.pop(key)

            self.expect_refused(self.change_weights(rename), f"no weight's name begins with {prefix}")
        source = self.source()
        torch.save([1, 2], source / "model.ckpt")
        self.expect_refused(source, "holds no state_dict")
        (source / "model.ckpt").write_bytes(b"nothing")
        self.expect_refused(source, "model.ckpt")
        self.expect_refused(source / "other.ckpt", "no such file")
        shutil.copy(self.folder / "source/model.ckpt", source / "second.ckpt")
        self.expect_refused(source, "there must be one checkpoint .* got model.ckpt, second.ckpt")

    def test_configurations_that_do_not_fit(self):
        refusals = {
            "unet_config.params.model_channels is missing": dict(unet_config__params__model_channels=...),
            "num_res_blocks must be a whole number above 0, got 0": dict(unet_config__params__num_res_blocks=0),
            r"channel_mult must be a list of whole numbers above 0, got \[\]": dict(
                unet_config__params__channel_mult=[]
            ),
            "linear_start must be a number above 0, got 'x'": dict(linear_start="x"),
            "use_ema must be False, got True": dict(use_ema=...),
            "conditioning_key must be 'crossattn', got 'concat'": dict(conditioning_key="concat"),
            "parameterization must be 'eps', got 'x0'": dict(parameterization="x0"),
            "resblock_updown must be False, got True": dict(unet_config__params__resblock_updown=True),
            "use_spatial_transformer must be True, got False": dict(unet_config__params__use_spatial_transformer=...),
            "unet_config.target must be a UNetModel, got 'x.Other'": dict(unet_config__target="x.Other"),
            "first_stage_config.target must be a VQModelInterface": dict(first_stage_config__target="x.AutoencoderKL"),
            "cond_stage_config.target must be a ClassEmbedder": dict(cond_stage_config__target="x.BERTEmbedder"),
            r"attn_resolutions must be \[\], got \[16\]": dict(
                first_stage_config__params__ddconfig__attn_resolutions=[16]
            ),
            "context_dim and .*embed_dim must be equal, got 24, 16": dict(unet_config__params__context_dim=24),
            "embed_dim must be equal, got 4, 3, 3": dict(unet_config__params__in_channels=4),
            "32 channels can't be split into heads": dict(unet_config__params__num_heads=3),
            "no such network can be made": dict(unet_config__params__model_channels=36),
        }
        for message, edits in refusals.items():
            with self.subTest(message=message):
                self.expect_refused(self.edited(**edits), message)

    def test_files_that_are_no_configuration(self):
        source = self.source()
        for content, message in (
            ("model: [", "no YAML file that can be read"),
            ("- 1", "the file must be a mapping"),
            ("model: {target: x.LatentDiffusion}", "model.params is missing"),
            ("model: {target: x.LatentDiffusion, params: {unet_config: 1}}", "unet_config must be a mapping, got 1"),
        ):
            (source / "config.yaml").write_text(content)
            with self.subTest(message=message):
                self.expect_refused(source, message)

    def test_options_of_other_sources(self):
        self.expect_refused(self.source(), "takes no --lora", "--lora", "x.safetensors")
        self.expect_refused(self.source(), "takes no --variant", "--variant", "fp16")
        self.expect_refused(self.scratch(), "takes no --config", "--config", "x.yaml")


if __name__ == "__main__":
    unittest.main()
