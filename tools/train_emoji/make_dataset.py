"""Renders the training set of the emoji model: 64x64 pictures and their captions.

    python tools/train_emoji/make_dataset.py --out emoji-487          # the chosen subgroups: 487 pictures
    python tools/train_emoji/make_dataset.py --all --out emoji-1849   # all without a skin tone: 1,849 pictures

Needs Debian's fonts-noto-color-emoji, unicode-cldr-core and unicode-data, and from PyPI emoji, numpy and pillow. The
counts are those of Debian 12's packages (Noto Color Emoji 2.042, CLDR 41, Unicode 15.0).
Writes images.npy, uint8 [N, 64, 64, 3], and captions.json, N x [character, name, keywords].
"""

import argparse
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import emoji
import numpy as np
from PIL import Image, ImageDraw, ImageFont

CLDR = Path("/usr/share/unicode/cldr/common")
EMOJI_TEST = Path("/usr/share/unicode/emoji/emoji-test.txt")
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SUBGROUPS = {  # of emoji-test.txt; few enough to be learnt well by a small model
    "face-smiling",
    "face-affection",
    "face-tongue",
    "face-hat",
    "face-costume",
    "face-glasses",
    "cat-face",
    "monkey-face",
    "heart",
    "animal-mammal",
    "animal-bird",
    "animal-amphibian",
    "animal-reptile",
    "animal-marine",
    "animal-bug",
    "plant-flower",
    "plant-other",
    "food-fruit",
    "food-vegetable",
    "food-prepared",
    "food-asian",
    "food-marine",
    "food-sweet",
    "drink",
    "transport-ground",
    "transport-water",
    "transport-air",
    "sport",
    "musical-instrument",
    "sky & weather",
}
EXCLUDE = ("o’clock", "thirty", "moon", "Japanese", "calendar", "mahjong")


def annotations():
    """Maps an emoji without variation selectors to its CLDR short name and keywords."""
    result = {}
    for folder in ("annotations", "annotationsDerived"):
        for node in ET.parse(CLDR / folder / "en.xml").getroot().iter("annotation"):
            entry = result.setdefault(node.get("cp").replace("\ufe0f", ""), {"keywords": []})
            if node.get("type") == "tts":
                entry["name"] = node.text
            else:
                entry["keywords"] = [k.strip() for k in node.text.split("|")]
    return result


def subgroups():
    """Maps an emoji without variation selectors to its subgroup in emoji-test.txt."""
    result, current = {}, None
    with open(EMOJI_TEST, encoding="utf8") as lines:
        for line in lines:
            if line.startswith("# subgroup:"):
                current = line.split(":")[1].strip()
            elif ";" in line and not line.startswith("#"):
                key = "".join(chr(int(x, 16)) for x in line.split(";")[0].split())
                result[key.replace("\ufe0f", "")] = current
    return result


def render(text, font):
    """A picture, uint8 [64, 64, 3] on white, or None for a sequence that the font doesn't join into one glyph."""
    image = Image.new("RGB", (160, 160), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, embedded_color=True)
    if right - left > 150:
        return None
    draw.text((80 - (left + right) / 2, 80 - (top + bottom) / 2), text, font=font, embedded_color=True)
    return np.asarray(image.crop((8, 8, 152, 152)).resize((64, 64), Image.LANCZOS))


def wanted(text, data, key, names, groups, everything):
    if data["status"] != emoji.STATUS["fully_qualified"] or any(0x1F3FB <= ord(c) <= 0x1F3FF for c in text):
        return False
    name = names.get(key, {}).get("name")
    return bool(name) and (everything or (groups.get(key) in SUBGROUPS and not any(word in name for word in EXCLUDE)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--all", action="store_true", help="every emoji without a skin tone, not only the chosen subgroups"
    )
    parser.add_argument("--out", type=Path, default=".", help="folder to write")
    args = parser.parse_args()
    for needed in (CLDR, EMOJI_TEST, FONT):
        if not needed.exists():
            sys.exit(f"{needed} is missing; install fonts-noto-color-emoji, unicode-cldr-core and unicode-data")
    font, names, groups = ImageFont.truetype(str(FONT), 109), annotations(), subgroups()
    images, captions = [], []
    for text, data in emoji.EMOJI_DATA.items():
        key = text.replace("\ufe0f", "")
        if not wanted(text, data, key, names, groups, args.all):
            continue
        pixels = render(text, font)
        if pixels is not None and (pixels < 250).sum() >= 100:
            images.append(pixels)
            captions.append([text, names[key]["name"], names[key]["keywords"]])
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "images.npy", np.stack(images))
    (args.out / "captions.json").write_text(json.dumps(captions))
    print(f"{len(images)} pictures")


if __name__ == "__main__":
    main()
