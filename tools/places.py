"""Where export.py writes: what may be replaced, and how that is done without losing anything."""

import json
import os
import shutil

from loading import UsageError

MANIFEST = "deepcache.json"


def check_place(out, force, sources):
    """That `out` may be written, given what is to be read. @throws UsageError"""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return
    if not force:
        raise UsageError(f"{out} exists and isn't an empty folder; --force replaces a package")
    if not (out / MANIFEST).is_file():
        raise UsageError(f"{out} exists and is no package, so that --force doesn't replace it")
    others(out)
    for source in sources:
        if source.resolve().is_relative_to(out):
            raise UsageError(f"{out} has {source} in it, so that --force doesn't replace it")


def others(package):
    """The files in a package's folder that aren't its own: those that its manifest doesn't list."""
    try:
        own = {MANIFEST, *json.loads((package / MANIFEST).read_text())["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{package / MANIFEST} can't be read ({error}), so that --force doesn't replace it") from error
    files = (file for file in package.rglob("*") if file.is_symlink() or not file.is_dir())
    return [name for file in files if (name := file.relative_to(package)).as_posix() not in own]


def put_in_place(part, out):
    """`part` becomes `out`, with the files there that aren't the old package's; if it can't, all stays as it was."""
    if not (out / MANIFEST).is_file():
        part.replace(out)
        return
    for name in others(out):
        if os.path.lexists(part / name):
            raise UsageError(f"{out / name} isn't the old package's file, and the new one has one of that name")
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(out / name, part / name, follow_symlinks=False)
    old = out.with_name(f"{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        part.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
