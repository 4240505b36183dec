"""What the tests of tools/export.py share."""

import contextlib
import io
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools/references")]
import export  # noqa: E402
import families  # noqa: E402
from tiny_pipelines import tiny_pipeline  # noqa: E402

SIZES = [families.Size(1, 8, 8, 24), families.Size(3, 11, 21, 6), families.Size(2, 16, 24, 13)]


def run(*arguments):
    """The command's exit code, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = export.main([str(argument) for argument in arguments])
    return code, out.getvalue()


def read_json(file):
    return json.loads(file.read_text())


def edit_json(file, **changes):
    """Sets settings, or takes those away that are given as `...`."""
    settings = read_json(file) | changes
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


def set_up(*variants):
    """Makes and exports the tiny pipelines that all tests of a file share."""
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    export.quiet()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    ExportTest.folder = Path(folder.name)
    for variant in variants:
        pipe = ExportTest.pipes[variant] = tiny_pipeline(variant)
        pipe.save_pretrained(ExportTest.source(variant))
        arguments = ExportTest.source(variant), ExportTest.package(variant), "--storage-dtype", "float16"
        code, ExportTest.printed[variant] = run(*arguments)
        assert code == 0, ExportTest.printed[variant]


class ExportTest(unittest.TestCase):
    folder, pipes, printed = None, {}, {}

    @classmethod
    def source(cls, variant):
        return cls.folder / variant / "pipeline"

    @classmethod
    def package(cls, variant):
        return cls.folder / variant / "package"

    def scratch(self):
        """A folder of this test's own, to find leftovers in."""
        folder = tempfile.TemporaryDirectory(dir=self.folder)
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def broken(self, **changes):
        """A copy of the one-layer pipeline with changes to its model_index.json."""
        source = self.scratch() / "pipeline"
        shutil.copytree(self.source("one_layer"), source)
        edit_json(source / "model_index.json", **changes)
        return source

    def expect_refused(self, source, message, *options, out=None):
        out = out or self.scratch() / "package"
        before = sorted(out.parent.rglob("*"))
        code, printed = run(source, out, *options)
        self.assertEqual(code, 2, printed)
        self.assertRegex(printed, message)
        self.assertEqual(sorted(out.parent.rglob("*")), before)
