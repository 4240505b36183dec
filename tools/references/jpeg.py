"""Records JPEG files of every kind with the pixels that Pillow reads from them, turned upright by their Exif data as
diffusers' load_image does.

    python tools/references/jpeg.py [--out tests/data/jpeg.pt]
"""

import argparse
import io
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, features

ROOT = Path(__file__).resolve().parents[2]
ORIENTATION = 0x0112


def picture():
    """Colours with edges, of a size that no block divides."""
    y, x = np.mgrid[0:29, 0:43]
    waves = [np.sin(x / 5) * np.cos(y / 7), np.cos((x + y) / 9), np.sin(y / 3)]
    pixels = (127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)
    pixels[8:15, 20:31] = (250, 20, 40)
    return Image.fromarray(pixels)


def encode(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def files():
    image = picture()
    yield "colours 4:2:0", encode(image, quality=90, subsampling="4:2:0")
    yield "colours 4:2:2", encode(image, quality=90, subsampling="4:2:2")
    yield "colours 4:4:4", encode(image, quality=75, subsampling="4:4:4")
    yield "progressive", encode(image, quality=60, progressive=True)
    yield "RGB", encode(image, quality=90, keep_rgb=True)
    yield "grey", encode(image.convert("L"), quality=90)
    yield "CMYK", encode(image.convert("CMYK"), quality=90)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        yield f"orientation {orientation}", encode(image, quality=50, exif=exif)


def record(name, jpeg):
    fields = {"name": name, "jpeg": torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)}
    image = Image.open(io.BytesIO(jpeg))
    if image.mode == "CMYK":  # the library refuses it
        return fields
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return fields | {
        "image": torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous(),
        "mask": torch.from_numpy(np.array(upright.convert("L")))[None],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/jpeg.pt")
    args = parser.parse_args()
    versions = {"pillow": PIL.__version__, "libjpeg-turbo": features.version_feature("libjpeg_turbo")}
    recorded = [record(name, jpeg) for name, jpeg in files()]
    torch.save({"command": "python tools/references/jpeg.py", "versions": versions, "files": recorded}, args.out)


if __name__ == "__main__":
    main()
