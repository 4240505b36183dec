"""Records what transformers' CLIP tokenizers make of a few hundred strings, for tests/parity/tokenizer_test.cpp.

    python tools/references/tokenizer.py --tokenizer models/emoji/tokenizer

Writes tests/data/tokenizer/cases.json and the small vocabulary in tests/data/tokenizer/pad_token, whose padding isn't
the end token (as in Stable Diffusion 2). The slow `CLIPTokenizer` is the reference; where `CLIPTokenizerFast` differs,
its ids stand beside. ftfy must not be installed: the slow tokenizer would use it and give other ids.
"""

import argparse
import importlib.util
import json
import pathlib
import platform
import random
import sys
import unicodedata

import regex
import tokenizers
import transformers
from transformers import CLIPTokenizer, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from tokenizer_cases import CASES, END, START

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 20240521
RANDOM_CASES = 120


# Ranges that random strings are drawn from.
RANGES = [
    (0x00, 0x7F), (0x20, 0x7E), (0x61, 0x7A), (0x41, 0x5A), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x45F), (0x5D0, 0x5EA), (0x620, 0x64A), (0x904, 0x939), (0xE01, 0xE3A), (0x1E00, 0x1FFE), (0x2000, 0x206F),
    (0x2070, 0x209C), (0x2150, 0x218B), (0x2460, 0x24FF), (0x2600, 0x26FF), (0x3000, 0x30FF), (0x4E00, 0x9FCC),
    (0xAC00, 0xD7A3), (0xE000, 0xE010), (0xFB00, 0xFB06), (0xFF00, 0xFF5E), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F),
    (0x20000, 0x20010),
]  # fmt: skip
FRAGMENTS = [
    START, END, END.upper(), "<|", "|>", "'s", "'LL", " ", "  ", "heart", "face",
    "\u200d", "\ufe0f", "\u0301", "\u03a3", "!",
]  # fmt: skip

SPECIAL = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
MERGES = [
    "h e", "l l", "he ll", "hell o</w>", "c a", "ca t</w>", "a t</w>", "l o", "w o", "wo r", "l d</w>", "wor ld</w>",
    "' s</w>", "s s</w>", "a a", "aa aa", "aa a</w>", "t o", "h a", "he a", "r t</w>", "hea rt</w>", "# #</w>",
    "\u00c3 \u00a9</w>", "\u00ce \u00b1", "\u00f0 \u0141",
]  # fmt: skip


def random_text(rng):
    def piece():
        if rng.random() < 0.3:
            return rng.choice(FRAGMENTS)
        first, last = rng.choice(RANGES)
        return chr(rng.randint(first, last))

    return "".join(piece() for _ in range(rng.randint(1, 24)))


def write_json(path, content, ensure_ascii=False, **kwargs):
    path.write_text(json.dumps(content, ensure_ascii=ensure_ascii, **kwargs) + "\n", encoding="utf-8")


def write_pad_token_vocabulary(folder):
    """A vocabulary as Stable Diffusion 2 configures it: special_tokens_map.json makes "!" the padding. It lacks the
    byte "~", which therefore is unknown, and has an added token as textual inversion writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = [symbol for symbol in bytes_to_unicode().values() if symbol != "~"]
    tokens = symbols + [symbol + "</w>" for symbol in symbols]
    tokens += ["".join(merge.split()) for merge in MERGES] + [START, END]
    assert len(tokens) == len(set(tokens))
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)}, separators=(",", ":"))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    bos, eos = {"content": START, **SPECIAL}, {"content": END, **SPECIAL}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": {"__type": "AddedToken", **bos},
            "do_lower_case": True,
            "eos_token": {"__type": "AddedToken", **eos},
            "errors": "replace",
            "model_max_length": 16,
            "pad_token": END,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", **eos},
        },
        indent=2,
    )
    special = {"bos_token": bos, "eos_token": eos, "pad_token": "!", "unk_token": eos}
    write_json(folder / "special_tokens_map.json", special, indent=2)
    write_json(folder / "added_tokens.json", {"<cat-toy>": len(tokens)})


def record(folder, texts):
    slow = CLIPTokenizer.from_pretrained(folder)
    fast = CLIPTokenizerFast.from_pretrained(folder)
    cases = []
    for about, text in texts:
        case = {
            "about": about,
            "text": text,
            "ids": slow(text, add_special_tokens=False)["input_ids"],
            "encoded": slow(text, padding="max_length", truncation=True)["input_ids"],
            "decoded": slow.decode(slow.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False),
        }
        fast_ids = fast(text, add_special_tokens=False)["input_ids"]
        if fast_ids != case["ids"]:
            case["fast_ids"] = fast_ids
        cases.append(case)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=ROOT / "models/emoji/tokenizer", help="the embedded model's tokenizer")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "tests/data/tokenizer")
    arguments = parser.parse_args()
    if importlib.util.find_spec("ftfy"):
        sys.exit("ftfy is installed: the slow tokenizer would use it. Run this without ftfy.")
    transformers.logging.set_verbosity_error()

    rng = random.Random(SEED)
    texts = [(about, text) for about, group in CASES.items() for text in group]
    texts += [("random", random_text(rng)) for _ in range(RANDOM_CASES)]
    write_pad_token_vocabulary(arguments.output / "pad_token")
    content = {
        "command": "python " + " ".join(sys.argv),
        "seed": SEED,
        "versions": {
            "python": platform.python_version(),
            "unicode": unicodedata.unidata_version,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "regex": regex.__version__,
        },
        "emoji": record(arguments.tokenizer, texts),
        "pad_token": record(arguments.output / "pad_token", texts[: -RANDOM_CASES // 2]),
    }
    # ASCII, so that no editor or checkout alters what the strings hold.
    write_json(arguments.output / "cases.json", content, ensure_ascii=True, separators=(",", ":"))
    for name in ("emoji", "pad_token"):
        differing = sum("fast_ids" in case for case in content[name])
        print(f"{name}: {len(content[name])} cases, the fast tokenizer differs in {differing}")


if __name__ == "__main__":
    main()
