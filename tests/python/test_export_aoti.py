"""Tests of tools/export.py --backend aoti: python tests/python/test_export_aoti.py OUT [build/bin/deepcache]

OUT is where the package stays that is exported first: tests in C++ go on with it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from export_tests import edit_json, read_json, run
from torch._inductor import config
from torch._inductor.package import load_package

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import aoti  # noqa: E402
import export  # noqa: E402
from controlnet import tiny_controlnet  # noqa: E402
from families import UNET  # noqa: E402
from macs import both_totals, split  # noqa: E402
from tiny_pipelines import VARIANTS, tiny_pipeline  # noqa: E402

PACKAGE, DEEPCACHE = None, None
BRANCH, BRANCHES = 1, 4
SIZE = aoti.Size(2, 8, 8, 24)
# Of all kinds of layers, and few: each takes the compiler a second or two.
SMALL_UNET = dict(
    block_out_channels=(8, 16),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "DownBlock2D"),
    mid_block_type="UNetMidBlock2D",
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)


def tiny_unconditional():
    unet = UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    return DDPMPipeline(unet.eval(), DDPMScheduler())


def setUpModule():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    AotiTest.folder = Path(folder.name)
    with mock.patch.dict(VARIANTS, small=dict(unet=SMALL_UNET)):
        AotiTest.pipe = tiny_pipeline("small")
    AotiTest.pipe.save_pretrained(AotiTest.folder / "small")
    tiny_unconditional().save_pretrained(AotiTest.folder / "ddpm")
    shutil.rmtree(PACKAGE, ignore_errors=True)
    arguments = "--backend", "both", "--cache-branch-id", BRANCH, "--size", "64x64"
    code, AotiTest.printed = run(AotiTest.folder / "small", PACKAGE, *arguments)
    assert code == 0, AotiTest.printed


class AotiTest(unittest.TestCase):
    folder, pipe, printed = None, None, None

    def scratch(self):
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        return Path(folder.name)


class PackageTest(AotiTest):
    def test_both_networks_are_in_the_package(self):
        files = read_json(PACKAGE / "deepcache.json")["files"]
        self.assertEqual({name for name in files if name.startswith("unet/")},
                         {"unet/config.json", "unet/model.pt", "unet/model.pt2"})  # fmt: skip
        self.assertRegex(self.printed, r"unet/model.pt: .* at 4 sizes")
        self.assertRegex(self.printed, r"unet/model.pt2: .* MB, (bit-equal|within \S+) in a full and a cached step")
        for stage in "exporting", "compiling the full network", "compiling the shallow network", "saving", "checking":
            self.assertIn(f"model.pt2: {stage}\n", self.printed)

    def test_networks_do_what_the_pipeline_does(self):
        file = str(PACKAGE / "unet/model.pt2")
        full, shallow = load_package(file, "full"), load_package(file, "shallow")
        for _ in range(2):
            inputs = UNET.inputs(self.pipe, SIZE)
            output, feature = full(*inputs)
            (cached,) = shallow(*inputs, feature)
            for actual in output, cached:
                torch.testing.assert_close(actual, UNET.reference(self.pipe, *inputs)[0], rtol=1e-4, atol=1e-4)
            self.assertGreater((shallow(*inputs, 2 * feature)[0] - output).abs().max().item(), 0.01)

    def test_description(self):
        with zipfile.ZipFile(PACKAGE / "unet/model.pt2") as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("extra/deepcache.json"))
            got = json.loads(archive.read(name))
        self.assertEqual([got["format_version"], got["torch"], got["cache_branch_id"]], [1, torch.__version__, BRANCH])
        self.assertEqual(got["cpu_capability"], torch.backends.cpu.get_cpu_capability())
        flags = {flag.replace("_", "") for flag in Path("/proc/cpuinfo").read_text().split()}
        expected = [name for name in aoti.INSTRUCTIONS if name.replace("_", "") in flags]
        self.assertEqual(got["instructions"], expected)
        self.assertEqual([given["name"] for given in got["inputs"]], ["sample", "timestep", "encoder_hidden_states"])
        self.assertEqual([given["shape"] for given in got["inputs"]], [[2, 4, 8, 8], [], [2, 24, 32]])
        self.assertEqual({given["dtype"] for given in got["inputs"]}, {"float32"})
        names = [f"up_blocks.{block}.resnets.{layer}" for block, layer in [(1, 1), (1, 0), (0, 1), (0, 0)]]
        self.assertEqual([branch["name"] for branch in got["branches"]], names)

        inputs = UNET.inputs(self.pipe, SIZE)
        program = torch.export.export(UNET.module(self.pipe).eval(), inputs)
        self.assertEqual(got["full_step"], split(*both_totals(lambda: program.module()(*inputs))))
        _, shallow, with_feature = aoti.cut(program, inputs, BRANCH)  # of the others, tests in C++ say as much
        branch = got["branches"][BRANCH]
        self.assertEqual(branch["feature_shape"], list(with_feature[-1].shape))
        self.assertEqual(branch["cached_step"], split(*both_totals(lambda: shallow.module()(*with_feature))))

    def test_number_of_threads_is_not_compiled_in(self):
        with zipfile.ZipFile(PACKAGE / "unet/model.pt2") as archive:
            sources = [archive.read(name) for name in archive.namelist() if name.endswith(".cpp")]
        self.assertTrue(any(b"#pragma omp parallel" in source for source in sources))
        self.assertFalse(any(b"num_threads(" in source for source in sources))


class CompiledAloneTest(AotiTest):
    def test_in_bfloat16(self):
        out, cache = self.scratch() / "package", self.scratch()
        with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(cache)):
            code, printed = run(self.folder / "ddpm", out, "--backend", "aoti", "--dtype", "bfloat16")
        self.assertEqual(code, 0, printed)
        self.assertEqual(list(cache.rglob("*.so")), [])  # with all weights in it
        self.assertEqual(
            set(read_json(out / "deepcache.json")["files"]),
            {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "unet/model.pt2"},
        )
        self.assertFalse((out / "unet/model.pt").exists())
        full = load_package(str(out / "unet/model.pt2"), "full")
        output, feature = full(torch.randn(1, 3, 8, 8).bfloat16(), torch.tensor(7.0))
        self.assertEqual([output.dtype, feature.dtype], [torch.bfloat16] * 2)
        self.assertEqual([list(output.shape), list(feature.shape)], [[1, 3, 8, 8], [1, 8, 8, 8]])


class FailureTest(AotiTest):
    def expect_refused(self, source, message, *options):
        out = self.scratch() / "package"
        code, printed = run(source, out, *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertEqual(list(out.parent.iterdir()), [])

    def test_flags_that_go_with_another_backend(self):
        for flag, value in ("--cache-branch-id", 0), ("--size", "64x64"), ("--batch", 1):
            message = f"{flag} goes with --backend aoti or both"
            self.expect_refused(self.folder / "small", message, flag, value)

    def test_values_out_of_range(self):
        for source, flag, value, message in (
            ("small", "--cache-branch-id", BRANCHES, "--cache-branch-id must be 0 to 3 for this UNet, got 4"),
            ("small", "--cache-branch-id", -1, "--cache-branch-id must be 0 to 3 for this UNet, got -1"),
            ("small", "--size", "64x60", "--size must be of multiples of 8 pixels for this model, got 64x60"),
            ("ddpm", "--size", "7x8", "--size must be of multiples of 2 pixels for this model, got 7x8"),
            ("small", "--dtype", "float16", "in float32 or bfloat16; got float16"),
        ):
            self.expect_refused(self.folder / source, message, "--backend", "aoti", flag, value)

    def test_values_that_are_no_numbers(self):
        for flag, value in ("--size", "64"), ("--size", "0x64"), ("--batch", "0"), ("--backend", "tvm"):
            with self.assertRaises(SystemExit) as error:
                run(self.folder / "small", self.scratch() / "package", "--backend", "aoti", flag, value)
            self.assertEqual(error.exception.code, 2)

    def test_size_that_nothing_tells(self):
        source = self.scratch() / "source"
        shutil.copytree(self.folder / "small", source)
        edit_json(source / "unet/config.json", sample_size=None)
        self.expect_refused(source, "sample_size.*: give --size", "--backend", "aoti")

    def test_models_that_are_not_compiled(self):
        options = "--backend", "aoti"
        self.expect_refused(
            self.folder / "small", "this is a text-to-video-zero", *options, "--as", "text-to-video-zero"
        )
        tiny_controlnet("controlnet_sd1").save_pretrained(self.folder / "controlnet")
        self.expect_refused(self.folder / "controlnet", "this is a controlnet", *options)

    def test_no_compiler(self):
        with config.patch({"cpp.cxx": (None, "no-such-compiler")}):
            self.expect_refused(self.folder / "ddpm", "needs a C\\+\\+ compiler, g\\+\\+ or", "--backend", "aoti")

    def test_network_that_differs_leaves_no_package(self):
        """As if the compiler had made something else of one of them."""

        def compiled(wrong):
            def load(_, name):
                def network(sample, timestep, *feature):
                    output = unet(sample, timestep).sample * (1.01 if name == wrong else 1)
                    return (output,) if feature else (output, output)

                return network

            return load

        for wrong, step in ("full", "a full step"), ("shallow", "a cached step on its feature"):
            unet, out = DDPMPipeline.from_pretrained(self.folder / "ddpm").unet.eval(), self.scratch() / "package"
            with mock.patch.object(aoti, "compile_unet"), mock.patch.object(aoti, "load_package", compiled(wrong)):
                code, printed = run(self.folder / "ddpm", out, "--backend", "aoti")
            self.assertEqual(code, 1, printed)
            self.assertRegex(printed, f"model.pt2: {step}: off the pipeline's by 0.0")
            self.assertEqual(list(out.parent.iterdir()), [])


class ProgramTest(AotiTest):
    def setUp(self):
        if DEEPCACHE is None:
            self.skipTest("the program `deepcache` isn't built")

    def generate(self, *options):
        command = [
            DEEPCACHE,
            "generate",
            "-m",
            PACKAGE,
            "-p",
            "red heart",
            "--steps",
            4,
            "-o",
            self.scratch() / "a.png",
        ]
        command += ["--cache-interval", 2, "--cache-branch-id", BRANCH, "-v", *options]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        return done.returncode, done.stderr

    def test_trusted(self):
        code, said = self.generate("-W", 64, "-H", 64, "--trust-native-code")
        self.assertEqual(code, 0, said)
        code, said = self.generate("-W", 128, "-H", 128, "--trust-native-code")
        self.assertEqual(code, 2)
        self.assertIn('compiled for "sample" Float [2, 4, 8, 8] alone', said)

    def test_untrusted(self):
        code, said = self.generate("-W", 128, "-H", 128)
        self.assertEqual(code, 0, said)
        self.assertRegex(
            said, "unet/model.pt is used, and not the compiled UNet beside it: trust_native_code isn't set"
        )


if __name__ == "__main__":
    PACKAGE = Path(sys.argv.pop(1)).resolve()
    if len(sys.argv) > 1 and sys.argv[1]:
        DEEPCACHE = Path(sys.argv.pop(1)).resolve()
    unittest.main()
