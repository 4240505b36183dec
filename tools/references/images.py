"""Records PSNR and SSIM of pairs of images as scikit-image gives them (needs `pip install scikit-image`), and PNG files
of every kind with the pixels that Pillow reads from them.

    python tools/references/images.py [--out tests/data/images.pt]

SSIM with the settings of the paper that defines it (Wang et al. 2004), as skimage's documentation lists them.
"""

import argparse
import importlib.metadata
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

ROOT = Path(__file__).resolve().parents[2]


def record(height, width, noise):
    expected = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height)).cumsum(2)
    expected /= expected.max()
    actual = (expected + noise * torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    first, second = expected.double().numpy(), actual.double().numpy()
    similarity = structural_similarity(
        first, second, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return {
        "actual": actual,
        "expected": expected,
        "psnr": float(peak_signal_noise_ratio(first, second, data_range=1)),
        "ssim": float(similarity),
    }


def png_files():
    """[{name, png: bytes, image: uint8 [3, H, W], mask: uint8 [1, H, W]}]"""
    pixels = torch.randint(0, 256, (13, 17, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)).numpy()
    colours = Image.fromarray(pixels[..., :3].copy())
    pictures = {
        "rgb": colours,
        "rgba": Image.fromarray(pixels),
        "grey": Image.fromarray(pixels[..., 0].copy()),
        "grey_alpha": Image.fromarray(pixels).convert("LA"),
        "palette": colours.quantize(16),
        "bilevel": Image.fromarray(pixels[..., 0].copy()).convert("1"),
    }
    files = []
    for name, picture in pictures.items():
        stream = io.BytesIO()
        options = dict(transparency=3) if name == "palette" else {}
        picture.save(stream, "PNG", **options)
        read = Image.open(io.BytesIO(stream.getvalue()))
        files.append(
            {
                "name": name,
                "png": torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8),
                "image": torch.from_numpy(np.array(read.convert("RGB"))).permute(2, 0, 1).contiguous(),
                "mask": torch.from_numpy(np.array(read.convert("RGB").convert("L")))[None],
            }
        )
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/images.pt")
    args = parser.parse_args()
    cases = [record(16, 11, 0.3), record(24, 32, 0.02), record(64, 64, 0.001)]
    versions = {name: importlib.metadata.version(name) for name in ("torch", "scikit-image", "pillow")}
    torch.save(
        {"command": "python tools/references/images.py", "versions": versions, "cases": cases, "png": png_files()},
        args.out,
    )


if __name__ == "__main__":
    main()
