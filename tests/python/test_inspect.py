"""Tests of `deepcache inspect` as a user runs it: python tests/python/test_inspect.py build/bin/deepcache

Its multiply-accumulates are compared with those of PyTorch's own counter, in full and under DeepCache's helper.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("tools", "tools/references", "bench")]
import make_unet  # noqa: E402
from class_conditional import tiny_model  # noqa: E402
from export import quiet  # noqa: E402
from families import UNET, UNET_XL, Size, unet_xl_inputs  # noqa: E402
from macs import both_totals, record, split  # noqa: E402
from pipelines import CountingHelper  # noqa: E402
from stable_video import DECODER, unet_inputs  # noqa: E402
from stable_video import UNET as VIDEO_UNET  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402
from tiny_video import tiny_video_pipeline  # noqa: E402
from tracing import trace_network  # noqa: E402

DEEPCACHE = None
PACKAGES = ROOT / "tests/data/packages"
SD1, SDXL, SVD = PACKAGES / "sd1", PACKAGES / "sdxl", PACKAGES / "svd"


def full_and_cached_step(pipe, inputs, branch):
    helper = CountingHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=branch)
    helper.enable()
    pipe.unet(*inputs)
    pipe.unet(*inputs)
    helper.disable()


def inspect(*arguments, cwd=None):
    command = [DEEPCACHE, "inspect", *arguments]
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)


inspect_package = cache(inspect)  # those of tests/data stay as they are


class InspectTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        quiet()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_it(self, *arguments):
        return inspect(*arguments, cwd=self.folder)

    def run_well(self, *arguments, run=None):
        result = (run or self.run_it)(*arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return result.stdout

    def json(self, model, *arguments):
        run = inspect_package if PACKAGES in Path(model).parents else None
        return json.loads(self.run_well(model, *arguments, "--json", run=run))

    def expect_refused(self, message, *arguments):
        result = self.run_it(*arguments)
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertRegex(result.stderr, message)
        self.assertEqual(result.stdout, "")

    def traced(self, network, variant, config=True):
        """A UNet's file, with diffusers' config.json beside it or not."""
        pipe = tiny_pipeline(variant)
        trace_network(network, pipe).save(self.folder / "unet.pt")
        if config:
            pipe.unet.save_config(self.folder)
        return pipe


class CountTest(InspectTest):
    def test_every_branch_as_pytorch_counts_it(self):
        """Of the UNets that DeepCache 0.1.1's helper knows, at the package's own size and at another."""
        for variant in "sd1", "sd2":
            for shape, options in (
                ([1, 16, 16, 24], []),
                ([3, 13, 17, 7], ["--latent-size", "13x17", "--batch", "3", "--text-length", "7"]),
            ):
                expected = record(variant, shape)
                got = self.json(PACKAGES / variant, *options)
                self.assertEqual(got["full_step"], expected["full"])
                self.assertEqual([branch["cached_step"] for branch in got["branches"]], expected["cached"])

    def test_a_class_conditional_model_as_pytorch_counts_the_original(self):
        """At branch 0 the original's cached step runs its first block, its last and what is behind that."""
        unet = tiny_model().model.diffusion_model
        sample, timestep, context = torch.randn(1, 3, 16, 16), torch.tensor([1]), torch.randn(1, 1, 16)

        def cached_step():
            time = unet.embed_time(timestep)
            first = unet.input_blocks[0](sample, time, context)
            unet.out(unet.output_blocks[-1](torch.cat([first, first], dim=1), time, context))

        def count(run):
            with FlopCounterMode(display=False) as counter:
                run()
            return counter.get_total_flops() // 2

        got = self.json(PACKAGES / "ldm")
        self.assertEqual(got["inputs"], {"sample": [1, 3, 16, 16], "timestep": [], "encoder_hidden_states": [1, 1, 16]})
        self.assertEqual(sum(got["full_step"].values()), count(lambda: unet(sample, timestep, context)))
        self.assertEqual(len(got["branches"]), 4)
        self.assertEqual(sum(got["branches"][0]["cached_step"].values()), count(cached_step))

    def test_unconditional_models_as_pytorch_counts_them(self):
        for name, sides in ("ddpm", [16, 16]), ("ddpm_grey", [12, 20]):
            got = self.json(PACKAGES / name)
            unet = UNet2DModel.from_config(UNet2DModel.load_config(PACKAGES / name / "unet")).eval()
            shape = [1, unet.config.in_channels, *sides]
            self.assertEqual(got["inputs"], {"sample": shape, "timestep": []})
            totals = both_totals(lambda unet=unet, shape=shape: unet(torch.randn(shape), torch.tensor(7)))
            self.assertEqual(got["full_step"], split(*totals))

    def test_a_full_step_of_sdxl_as_pytorch_counts_it(self):
        pipe = tiny_pipeline("sdxl")
        *inputs, text_embeds, time_ids = unet_xl_inputs(pipe, Size(1, 16, 16, 24))
        added = {"text_embeds": text_embeds, "time_ids": time_ids}
        totals = both_totals(lambda: pipe.unet(*inputs, added_cond_kwargs=added))
        got = self.json(SDXL)
        self.assertEqual(got["full_step"], split(*totals))
        self.assertEqual(
            got["inputs"],
            {
                "sample": [1, 4, 16, 16],
                "timestep": [],
                "encoder_hidden_states": [1, 24, 80],
                "text_embeds": [1, 40],
                "time_ids": [1, 6],
            },
        )

    def test_the_published_unet(self):
        """Stable Diffusion 1.5's at 64x64, batch 1: the paper's numbers, in 10^9."""
        make_unet.write_model("sd15", self.folder, no_weights=True)
        self.assertLess((self.folder / "unet.pt").stat().st_size, 4e6)
        got = self.json("unet.pt", "--latent-size", "64x64")
        self.assertEqual(got["inputs"]["encoder_hidden_states"], [1, 77, 768])
        in_billions = {key: round(value / 1e9, 1) for key, value in got["full_step"].items()}
        self.assertEqual(in_billions, {"weights": 338.6, "attention": 63.0})
        cached = [round(branch["cached_step"]["weights"] / 1e9, 1) for branch in got["branches"]]
        self.assertEqual(cached, [20.7, 57.3, 98.0, 132.6, 167.6, 208.4, 243.0, 278.2, 315.0, 322.7, 327.7, 332.6])
        table = self.run_well("unet.pt", "--latent-size", "64x64")
        self.assertIn("full step: 338.6 + 63.0 GMACs, convolutions and linear layers + attention products", table)

    def test_features_and_speedups(self):
        got = self.json(SD1)
        unet = torch.jit.load(SD1 / "unet/model.pt")
        self.assertEqual((got["model"], got["dtype"]), (str(SD1), "float32"))
        full, names = got["full_step"], {name for name, _ in unet.named_modules()}
        for i, branch in enumerate(got["branches"]):
            self.assertEqual(branch["cache_branch_id"], i)
            self.assertIn(branch["name"], names)
            size = torch.Size(branch["feature_shape"]).numel()
            self.assertEqual(branch["feature_bytes"], 4 * size)
            held = {order: 4 * size * number for order, number in (("0", 1), ("1", 3), ("2", 4))}
            self.assertEqual(branch["cache_bytes"], held)
            for kind, parts in ("weights", ["weights"]), ("total", ["weights", "attention"]):
                whole, part = (sum(step[name] for name in parts) for step in (full, branch["cached_step"]))
                self.assertEqual(branch["speedup"][kind].keys(), {"2", "3", "5", "10", "20"})
                for interval, speedup in branch["speedup"][kind].items():
                    n = int(interval)
                    self.assertAlmostEqual(speedup, n * whole / (whole + (n - 1) * part), places=12)
        shapes = [branch["feature_shape"] for branch in got["branches"]]
        self.assertEqual([shapes[i] for i in (0, 2, 11)], [[1, 8, 16, 16], [1, 16, 16, 16], [1, 16, 2, 2]])

    def test_halves(self):
        got, whole = self.json(PACKAGES / "sd1_bfloat16"), self.json(SD1)
        self.assertEqual(got["dtype"], "bfloat16")
        self.assertEqual(got["full_step"], whole["full_step"])
        for half, branch in zip(got["branches"], whole["branches"], strict=True):
            self.assertEqual(2 * half["feature_bytes"], branch["feature_bytes"])
            self.assertEqual(half["cached_step"], branch["cached_step"])


class FileTest(InspectTest):
    def test_a_file_with_a_config_beside_it_is_as_its_package(self):
        self.traced(UNET, "sd1")
        got, package = self.json("unet.pt", "--text-length", 24), self.json(SD1)
        for key in "inputs", "full_step", "branches":
            self.assertEqual(got[key], package[key])
        self.assertEqual(self.json("unet.pt")["inputs"]["encoder_hidden_states"], [1, 77, 32])

    def test_a_config_elsewhere(self):
        pipe = self.traced(UNET_XL, "sdxl", config=False)
        (self.folder / "other").mkdir()
        pipe.unet.save_config(self.folder / "other")
        got, package = self.json("unet.pt", "--text-length", 24, "--config", "other/config.json"), self.json(SDXL)
        for key in "inputs", "full_step", "branches":
            self.assertEqual(got[key], package[key])

    def test_a_file_alone_tells_what_its_weights_tell(self):
        self.traced(UNET, "sd1", config=False)
        got, package = self.json("unet.pt", "--latent-size", "16x16", "--text-length", 24), self.json(SD1)
        for key in "inputs", "full_step", "branches":
            self.assertEqual(got[key], package[key])

    def test_a_file_with_other_inputs(self):
        """The network that DDPM has, with names of its own."""
        unet = UNet2DModel(
            sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, num_class_embeds=3,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip

        class Renamed(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.unet = unet

            def forward(self, x, t, y):
                return self.unet(x, t, class_labels=y).sample

        inputs = torch.randn(1, 3, 16, 16), torch.tensor(7), torch.tensor([2])
        torch.jit.trace(Renamed(), inputs, check_trace=False).save(self.folder / "unet.pt")
        self.expect_refused('input "x" isn\'t known: give it, as --input x=SHAPE .*sample, ', "unet.pt")
        given = ["--input", "x=1x3x16x16", "--input", "t=:int64", "--input", "y=1:int64"]
        got = self.json("unet.pt", *given)
        totals = both_totals(lambda: unet(*inputs[:2], class_labels=inputs[2]))
        self.assertEqual(got["full_step"], split(*totals))
        self.assertEqual(got["inputs"], {"x": [1, 3, 16, 16], "t": [], "y": [1]})
        self.assertEqual(len(got["branches"]), 6)

    def test_given_inputs_go_before_known_ones(self):
        got = self.json(SD1, "--input", "encoder_hidden_states=1x5x32", "--input", "sample=1x4x8x8")
        self.assertEqual(got["inputs"]["encoder_hidden_states"], [1, 5, 32])
        self.assertEqual(got["full_step"], record("sd1", [1, 8, 8, 5])["full"])


class VideoTest(InspectTest):
    def test_every_branch_as_pytorch_counts_it(self):
        pipe = tiny_video_pipeline()
        inputs = unet_inputs(pipe, Size(1, 8, 8, 1, frames=3))
        got = self.json(SVD)
        shapes = {name: list(value.shape) for name, value in zip(got["inputs"], inputs, strict=True)}
        self.assertEqual(got["inputs"], shapes)
        self.assertEqual(got["full_step"], split(*both_totals(lambda: pipe.unet(*inputs))))
        self.assertEqual(len(got["branches"]), 6)
        for branch in got["branches"]:
            both = split(
                *both_totals(partial(full_and_cached_step, pipe, inputs, branch["cache_branch_id"]))
            )  # of a full step and a cached one
            expected = {kind: both[kind] - got["full_step"][kind] for kind in both}
            self.assertEqual(branch["cached_step"], expected, branch["cache_branch_id"])
            self.assertEqual(branch["feature_bytes"], 4 * torch.Size(branch["feature_shape"]).numel())

    def test_other_frames_and_sizes(self):
        inputs = unet_inputs(pipe := tiny_video_pipeline(), Size(2, 13, 17, 1, frames=5))
        got = self.json(SVD, "--num-frames", 5, "--latent-size", "13x17", "--batch", 2)
        self.assertEqual(got["inputs"]["sample"], [2, 5, 8, 13, 17])
        self.assertEqual(got["full_step"], split(*both_totals(lambda: pipe.unet(*inputs))))

    def test_memory_of_decoding(self):
        got = self.json(SVD, "--num-frames", 5)
        self.assertEqual(got["decoding"].keys(), {"1", "5"})
        one, five = got["decoding"]["1"], got["decoding"]["5"]
        pixels = 4 * 32 * 16 * 16  # of the widest layer, a frame
        self.assertGreater(one, 2 * pixels)  # what a layer reads and what it writes
        self.assertLess(one, 10 * pixels)
        self.assertAlmostEqual(five / one, 5, delta=0.05)
        self.assertIn("5 frames at a time", self.run_well(SVD, "--num-frames", 5))

    def test_a_file_and_its_decoder(self):
        pipe = tiny_video_pipeline()
        trace_network(VIDEO_UNET, pipe).save(self.folder / "unet.pt")
        trace_network(DECODER, pipe).save(self.folder / "decoder.pt")
        self.expect_refused(r"frames \(--num-frames\) is missing", "unet.pt", "--latent-size", "8x8")
        pipe.unet.save_config(self.folder)
        got, package = self.json("unet.pt", "--decoder", "decoder.pt"), self.json(SVD)
        for key in "inputs", "full_step", "branches", "activations", "decoding":
            self.assertEqual(got[key], package[key])

    def test_what_is_not_of_videos_is_refused(self):
        self.expect_refused(
            "--num-frames is of UNets with a temporal axis, .* sample 1x4x16x16", SD1, "--num-frames", 3
        )
        self.expect_refused("--num-frames", SVD, "--num-frames", 0)
        self.expect_refused("--config and --decoder go with a UNet's file", SVD, "--decoder", SVD / "vae/decoder.pt")
        self.traced(UNET, "sd1")
        self.expect_refused("--decoder is of a video's latents", "unet.pt", "--decoder", SVD / "vae/decoder.pt")


class MemoryTest(InspectTest):
    def test_what_is_held_at_a_time(self):
        """Bytes: 1024 for four channels of 8x8, 4096 for sixteen."""

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.norm = torch.nn.Conv2d(4, 16, 3, padding=1), torch.nn.GroupNorm(4, 16)
                self.up, self.out = torch.nn.Conv2d(16, 4, 3, padding=1), torch.nn.Conv2d(8, 4, 3, padding=1)

            def forward(self, sample):
                return self.out(torch.cat([self.up(self.norm(self.down(sample))), sample], dim=1))

        sample = torch.zeros(1, 4, 8, 8)
        torch.jit.trace(Network().eval(), sample).save(self.folder / "unet.pt")
        got = self.json("unet.pt", "--input", "sample=1x4x8x8")["activations"]
        self.assertEqual(got["full_step"], 1024 + 4096 + 4096)  # while the norm runs: the sample, and 16 channels twice
        self.assertEqual(got["cached_step"], 1024 + 1024 + 2048)  # while the sample and the feature are concatenated


class TableTest(InspectTest):
    def test_table(self):
        lines = self.run_well(SD1).splitlines()
        got = self.json(SD1)
        self.assertEqual(lines[0], f"{SD1}: float32, 12 branches")
        self.assertEqual(lines[1], "inputs: sample 1x4x16x16, timestep, encoder_hidden_states 1x24x32")
        full = got["full_step"]
        self.assertIn(f"full step: {full['weights'] / 1e6:.1f} + {full['attention'] / 1e6:.1f} MMACs", lines[2])
        held = got["activations"]
        self.assertEqual(
            lines[3],
            f"activations: {held['full_step'] / 1e6:.1f} MB at most in a full step, "
            f"{held['cached_step'] / 1e6:.1f} MB in a cached one (branch 0)",
        )
        rows = [re.split(r" {2,}", line.strip()) for line in lines if re.match(r" *\d+  ", line)]
        self.assertEqual(len(rows), 12)
        for row, branch in zip(rows, got["branches"], strict=True):
            cached = branch["cached_step"]
            self.assertEqual(row[:3], [str(branch["cache_branch_id"]), branch["name"],
                                       "x".join(map(str, branch["feature_shape"]))])  # fmt: skip
            self.assertEqual(row[3], f"{branch['feature_bytes'] / 1e3:.1f} kB")
            macs = re.fullmatch(r"(\S+) \+ +(\S+)", "  ".join(row[4:-5]))
            self.assertEqual(macs.groups(), tuple(f"{cached[key] / 1e6:.1f}" for key in ("weights", "attention")))
            self.assertEqual(row[-5:], [f"{value:.2f}x" for value in branch["speedup"]["total"].values()])
        self.assertEqual(len({len(line) for line in lines if re.match(r" *\d+  |id ", line)}), 1, "aligned")
        self.assertIn("guidance", lines[-3])
        self.assertIn("3 are held at forecast order 1", lines[-2])

    def test_help_tells_of_the_subcommand(self):
        command = [str(DEEPCACHE), "--help"]
        self.assertIn("inspect", subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        self.assertIn("--latent-size", self.run_well("--help"))


class WrongInputTest(InspectTest):
    def test_no_subcommand_or_unknown_flags(self):
        for arguments in [], ["paint"]:
            self.assertEqual(subprocess.run([str(DEEPCACHE), *arguments], capture_output=True).returncode, 2)
        self.expect_refused("model is required")
        self.expect_refused("--what", SD1, "--what")

    def test_numbers_out_of_range(self):
        for flag, value in ("--latent-size", "0x8"), ("--latent-size", "8"), ("--batch", 0), ("--text-length", -1):
            self.expect_refused(flag, SD1, flag, value)

    def test_missing_or_unreadable_models(self):
        self.expect_refused("no such file or folder: nothing.pt", "nothing.pt")
        self.expect_refused("is no model package", self.folder)
        (self.folder / "text.pt").write_text("no network")
        self.expect_refused("text.pt isn't a readable TorchScript file", "text.pt")

    def test_a_damaged_package(self):
        shutil.copytree(SD1, self.folder / "package")
        config = self.folder / "package/unet/config.json"
        config.write_text(config.read_text() + " ")
        self.expect_refused("unet/config.json is damaged", "package")

    def test_a_package_whose_unet_is_compiled(self):
        package = self.folder / "package"
        shutil.copytree(SD1, package)
        manifest = json.loads((package / "deepcache.json").read_text())
        manifest["files"]["unet/model.pt2"] = manifest["files"].pop("unet/model.pt")
        (package / "deepcache.json").write_text(json.dumps(manifest))
        self.expect_refused("has a compiled UNet alone; .* exported with --backend torchscript or both", "package")

    def test_a_network_without_skip_concatenations(self):
        torch.jit.trace(torch.nn.Conv2d(4, 4, 3), torch.zeros(1, 4, 8, 8)).save(self.folder / "conv.pt")
        self.expect_refused("conv.pt: the network has no skip concatenation", "conv.pt")

    def test_sizes_that_nothing_tells(self):
        self.traced(UNET_XL, "sdxl", config=False)
        self.expect_refused(r'"sample" isn\'t known, its height \(--latent-size\) is missing', "unet.pt")
        self.expect_refused(
            r'"text_embeds" isn\'t known, its width .* is missing: .* --config, or the shape by --input text_embeds=',
            "unet.pt", "--latent-size", "8x8",
        )  # fmt: skip

    def test_configs_that_are_not_as_they_should_be(self):
        self.traced(UNET_XL, "sdxl")
        config = self.folder / "config.json"
        good = json.loads(config.read_text())
        for change, message in (
            ({"in_channels": 0}, "in_channels.* is 0; it must be an integer from 1"),
            ({"cross_attention_dim": [80]}, "cross_attention_dim"),
            ({"projection_class_embeddings_input_dim": 40}, "is 40; it must be the width of text_embeds and some mul"),
        ):
            config.write_text(json.dumps(good | change))
            self.expect_refused(f"config.json: .*{message}", "unet.pt")
        config.write_text("{")
        self.expect_refused("config.json", "unet.pt")
        self.expect_refused("nowhere.json", "unet.pt", "--config", "nowhere.json")
        self.expect_refused("--config and --decoder go with a UNet's file", SDXL, "--config", config)

    def test_shapes_that_are_none(self):
        for text in "sample", "=1x4", "sample=4x", "sample=axb", "sample=1x0", "sample=-1", "sample=9999999", "s=1x4:":
            self.expect_refused("--input", SD1, "--input", text)
        self.expect_refused("float16, bfloat16 or int64; got", SD1, "--input", "sample=1:int4")
        self.expect_refused(
            'no input "mask"; it has sample, timestep, encoder_hidden_states', SD1, "--input", "mask=1x1"
        )

    def test_shapes_that_the_network_cannot_take(self):
        self.expect_refused(
            "can't run on these inputs: sample 1x5x16x16, timestep, .*: .* 4 channels, but got 5[^\n]*\n$",
            SD1, "--input", "sample=1x5x16x16",
        )  # fmt: skip
        self.expect_refused(
            "can't run .*: (mat1 and mat2 shapes|.* 32 features, but got 31)",
            SD1, "--input", "encoder_hidden_states=1x5x31",
        )  # fmt: skip


if __name__ == "__main__":
    DEEPCACHE = Path(sys.argv.pop(1)).resolve()
    unittest.main()
