"""Renders a training set of the emoji model: 64x64 pictures and their captions.

    python tools/train_emoji/make_dataset.py KIND --out FOLDER

    chosen   487 pictures: subgroups that a small model learns well
    all    1,849: every emoji without a skin tone
    more     549: what isn't chosen, without flags, clocks, signs, roles, and further genders or hairs of a person
    colors 5,591: the chosen in other colours, "blue guitar"

The captions of bench/quality_prompts.txt aren't among `colors`: they are there to measure what wasn't learnt by heart.
Needs Debian's fonts-noto-color-emoji, unicode-cldr-core and unicode-data, and from PyPI emoji, numpy and pillow. The
counts are those of Debian 12's packages (Noto Color Emoji 2.042, CLDR 41, Unicode 15.0).
Writes images.npy, uint8 [N, 64, 64, 3], and captions.json, N x [character, name, keywords].
"""

import argparse
import json
import re
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
UNUSUAL = {  # subgroups left out of `more`
    "country-flag",
    "subdivision-flag",
    "flag",
    "family",
    "person-activity",
    "person-sport",
    "person-resting",
    "person-role",
    "person-gesture",
    "person-fantasy",
    "alphanum",
    "keycap",
    "geometric",
    "arrow",
    "av-symbol",
    "other-symbol",
    "time",
    "zodiac",
    "math",
    "punctuation",
    "currency",
    "gender",
    "religion",
    "transport-sign",
    "warning",
}
VARIANT = re.compile(r"\b(man|woman|men|women|boy|girl)\b.*:|: .*(hair|beard|bald)|^(man|woman|men|women)\b.* ")
COLORS = {  # hue in degrees, factors of saturation and brightness
    "red": (0, 1.0, 0.95),
    "orange": (28, 1.0, 1.0),
    "yellow": (50, 0.95, 1.05),
    "green": (125, 0.9, 0.8),
    "blue": (215, 1.0, 0.95),
    "purple": (280, 0.85, 0.85),
    "pink": (332, 0.5, 1.1),
    "brown": (22, 0.75, 0.6),
    "black": (0, 0.05, 0.3),
    "white": (0, 0.06, 1.15),
    "golden": (44, 1.0, 0.9),
    "gray": (0, 0.05, 0.75),
}


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


def wanted(text, data, key, names, groups, kind):
    if data["status"] != emoji.STATUS["fully_qualified"] or any(0x1F3FB <= ord(c) <= 0x1F3FF for c in text):
        return False
    name = names.get(key, {}).get("name")
    if not name or kind == "all":
        return bool(name)
    chosen = groups.get(key) in SUBGROUPS and not any(word in name for word in EXCLUDE)
    if kind == "more":
        return not (chosen or groups.get(key) in UNUSUAL or VARIANT.search(name))
    return chosen


def recolor(pixels, hue, saturation, brightness):
    """What has the picture's main hue in another one; a grey picture is tinted. Outlines and highlights stay."""
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(np.float32) / 255
    strength = hsv[..., 1] * hsv[..., 2]
    vivid = strength > 0.25
    background = (pixels > 250).all(-1)
    if vivid.sum() > 0.15 * (~background).sum():
        histogram, edges = np.histogram(hsv[..., 0][vivid], 36, (0, 1), weights=strength[vivid])
        smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
        main = (edges[smooth.argmax()] + edges[smooth.argmax() + 1]) / 2
        distance = np.abs((hsv[..., 0] - main + 0.5) % 1 - 0.5)
        near = np.clip((50 / 360 - distance) / (15 / 360), 0, 1) * np.clip(hsv[..., 1] / 0.2, 0, 1)
        base = hsv[..., 1]
    else:  # grey: what is light takes the colour
        near = np.clip((hsv[..., 2] - 0.25) / 0.3, 0, 1) * (~background)
        base = np.full_like(hsv[..., 1], 0.75)
    new = np.stack([np.full_like(base, hue / 360), base * saturation, hsv[..., 2] * brightness], -1).clip(0, 1)
    new = np.asarray(Image.fromarray((new * 255).round().astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
    return (pixels + near[..., None] * (new - pixels)).round().clip(0, 255).astype(np.uint8)


def in_other_colors(images, captions):
    """Each picture in each of COLORS, but for names that a picture has already or that are kept for measuring."""
    kept = (Path(__file__).parents[2] / "bench/quality_prompts.txt").read_text(encoding="utf8").splitlines()
    taken = set(kept) | {caption[1] for caption in captions}
    words = re.compile(r"\b(" + "|".join(COLORS) + r")\b ?")
    for pixels, (text, name, keywords) in zip(images, captions, strict=True):
        thing = words.sub("", name).strip()
        if not thing or name == "orange":
            continue
        for color, (hue, saturation, brightness) in COLORS.items():
            if (caption := f"{color} {thing}") in taken:
                continue
            recolored = recolor(pixels, hue, saturation, brightness)
            if (recolored < 235).sum() < 0.2 * (pixels < 235).sum():
                continue  # hardly to be seen on white
            taken.add(caption)
            yield recolored, [text, caption, [f"{color} {k}" for k in keywords]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["chosen", "all", "more", "colors"])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    for needed in (CLDR, EMOJI_TEST, FONT):
        if not needed.exists():
            sys.exit(f"{needed} is missing; install fonts-noto-color-emoji, unicode-cldr-core and unicode-data")
    font, names, groups = ImageFont.truetype(str(FONT), 109), annotations(), subgroups()
    images, captions = [], []
    for text, data in emoji.EMOJI_DATA.items():
        key = text.replace("\ufe0f", "")
        if not wanted(text, data, key, names, groups, args.kind):
            continue
        pixels = render(text, font)
        if pixels is not None and (pixels < 250).sum() >= 100:
            images.append(pixels)
            captions.append([text, names[key]["name"], names[key]["keywords"]])
    if args.kind == "colors":
        images, captions = zip(*in_other_colors(images, captions), strict=True)
    args.out.mkdir(parents=True, exist_ok=True)
    np.save(args.out / "images.npy", np.stack(images))
    (args.out / "captions.json").write_text(json.dumps(captions))
    print(f"{len(images)} pictures")


if __name__ == "__main__":
    main()
