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

SEED = 20240521
RANDOM_CASES = 120

START, END = "<|startoftext|>", "<|endoftext|>"

# Each group of strings is about one thing.
CASES = {
    "plain prompts": [
        "a red heart",
        "a photo of an astronaut riding a horse on mars",
        "smiling face with sunglasses",
        "A Cat",
        "a cat, high quality, 4k",
        "flag: Japan",
        "person: medium skin tone, blond hair",
        "x",
        "hello world",
    ],
    "empty and blank": [
        "",
        " ",
        "    ",
        "\t",
        "\n",
        "\r\n",
        " \t\n\r ",
        "\u00a0",
        "\u3000",
        "\u2003\u2009",
        "\u2028",
        "\u2029",
    ],
    "white space": [
        " a  cat ",
        "a\tcat\nsits\r\non a mat",
        "a\u00a0red\u3000heart",
        "a\u2028b\u2029c",
        "a\u0085b",
        "a\u000bb\u000cc",
        "a\u1680b\u202fc\u205fd",
        "\u180ea",
        "a \u00a0 b",
    ],
    "control characters": [
        "\0",
        "a\0b",
        "\x01\x02\x1f",
        "red\x07 heart",
        "a\x1cb\x1db\x1eb\x1fb",
        "\x7f",
        "he\x7fart",
        "a\x80b\x9fc",
        "\ufffd",
        "a\ufffdb",
        "'\0s",
        "<|start\0oftext|>",
    ],
    "format characters": [
        "a\u200bb",
        "zero\u200bwidth\u200cnon\u200djoiner",
        "\ufeffbom first",
        "bom\ufeffinside",
        "soft\u00adhyphen",
        "\u200eleft\u200f right\u202e",
        "word\u2060joiner",
        "\u2066isolate\u2069",
        "a\U000e0041b",
        "\u0600\u061c",
    ],
    "private, unassigned and noncharacters": [
        "\ue000",
        "a\ue000b",
        "a\uf8ffb",
        "a\U000f0000b",
        "a\U0010fffdb",
        "a\u0378b",
        "a\uffffb",
        "\ufdd0",
        "a\U0001fffeb",
        "\U000e0080x",
    ],
    "contractions": [
        "it's",
        "IT'S",
        "I'm don't we're you've he'll she'd",
        "I'M DON'T WE'RE YOU'VE HE'LL SHE'D",
        "'s",
        "'S",
        "'st",
        "'t're",
        "cat's's",
        "''s",
        "' s",
        "'\u017f",
        "it'\u017f",
        "rock 'n' roll",
        "'ll'LL'lL",
        "o'clock",
        "'ve've",
        "'re-do",
        "it\u2019s",
        "DON\u2019T",
        "\u02bcs",
        "!'s",
        "'\u017ft",
        "5'd",
        "'m\u0301",
    ],
    "html entities": [
        "&amp;",
        "&lt;b&gt;bold&lt;/b&gt;",
        "a &quot;cat&quot;",
        "&#39;s",
        "&nbsp;",
        "&amp;amp;",
        "<b>cat</b>",
    ],
    "punctuation": [
        "!",
        "!!",
        "!!!!!!!!!!",
        "...",
        "a.b,c;d:e",
        "--- *** ___",
        "?!?!",
        "(((cat)))",
        "[cat] {dog} <bird>",
        "#@$%^&*",
        "\u2026 \u2014 \u2013",
        "\u00a1hola! \u00bfqu\u00e9?",
        "\u00abcat\u00bb \u201ccat\u201d",
        "a/b\\c|d",
        "`~^",
        "\u20ac5 \u00a35 $5",
        "!a!b!",
        "\u3002\u3001\uff01",
        "wow!",
        "wow! great!",
        "!wow",
        "a ! b",
        "100%",
        "~",
        "a~b",
        "~~~",
        "'",
        "''",
        '"',
    ],
    "weights and tools' syntax": [
        "(word:1.3)",
        "((masterpiece)), (best quality:1.21)",
        "[cat|dog]",
        "<lora:style:0.8>",
        "a AND b",
        "cat:0.5::1",
        "{a|b}",
        "a, b,, c",
        "BREAK",
        "(a:1.1)(b:.9)",
    ],
    "links": [
        "https://example.com/a?b=c&d=%20#e",
        "www.example.org",
        "user@example.com",
        "C:\\Users\\cat.png",
        "/tmp/cat_01.png",
        "v1.5-pruned.ckpt",
    ],
    "numbers": [
        "1234567890",
        "3.14",
        "1,000,000",
        "4k 8K",
        "1st 2nd",
        "x2",
        "2x",
        "007",
        "-5",
        "\u00b2\u00b3\u00b9",
        "x\u00b2",
        "\u00bd",
        "\u2167 \u2177",
        "\u2460\u2461",
        "\u0661\u0662\u0663",
        "\u0967\u0968\u0969",
        "\u0e51\u0e52",
        "\uff11\uff12",
        "\U0001d7d8\U0001d7d9",
        "\u4e00\u4e8c",
        "\u3007",
        "1\ufe0f\u20e3",
    ],
    "emoji": [
        "\U0001f600",
        "\u2764\ufe0f",
        "\u2764",
        "\U0001f44d\U0001f3fd",
        "\U0001f469\u200d\U0001f680",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\U0001f1e9\U0001f1ea",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\U0001f9d1\U0001f3ff\u200d\U0001f4bb",
        "#\ufe0f\u20e3",
        "I \u2764\ufe0f NY",
        "cat\U0001f408cat",
        "\u263a\ufe0e",
        "\U0001f600\U0001f600\U0001f600",
        "\U0001f1e9",
        "\u00a9\u00ae\u2122",
        "\U0001f937\u200d\u2640\ufe0f",
        "\u2665\u2666\u2663\u2660",
        "\U0001f6f8",
        "\u2b50",
    ],
    "chinese, japanese, korean": [
        "\u732b",
        "\u4e00\u53ea\u7ea2\u8272\u7684\u732b",
        "a\u732bb",
        "\u732b\u732b",
        "\u3042\u304b\u3044\u732b\u304c\u5ea7\u308b",
        "\u30ab\u30bf\u30ab\u30ca",
        "\uff76\uff80\uff76\uff85",
        "\ud55c\uad6d\uc5b4 \uace0\uc591\uc774",
        "\u1112\u1161\u11ab",
        "\u304b\u3099",
        "\uf900",
        "\uf9d0x",
        "\U0002f800",
        "\U00020000a",
        "\U0002a700",
        "\U0002b740",
        "\U0002b820",
        "\U0002ceb0",
        "\u3400\u4dbf\u4dc0",
        "\u9fff",
        "\U00030000",
        "\u3005\u3006",
        "\u4e00'\u4e00",
        "a\u3400a",
        "a\u9fffa",
        "a\U00020001a",
        "a\U0002a6dfa",
        "a\U0002a701a",
        "a\U0002b741a",
        "a\U0002b821a",
        "a\U0002ceb1a",
        "a\uf901a",
        "a\U0002f801a",
        "a\U00030001a",
        "a\u31c0a",
        "a\u2e80a",
        "\u732b!\u72d7",
        "'\u4e00s",
    ],
    "other scripts": [
        "\u0642\u0637\u0629 \u062d\u0645\u0631\u0627\u0621",
        "\u0642\u0650\u0637\u0651\u064e\u0629\u064c",
        "\u05d7\u05ea\u05d5\u05dc \u05d0\u05d3\u05d5\u05dd",
        "\u05d7\u05b8\u05ea\u05d5\u05bc\u05dc",
        "\u0e41\u0e21\u0e27\u0e2a\u0e35\u0e41\u0e14\u0e07",
        "\u0932\u093e\u0932 \u092c\u093f\u0932\u094d\u0932\u0940",
        "\u0b9a\u0bbf\u0bb5\u0baa\u0bcd\u0baa\u0bc1 \u0baa\u0bc2\u0ba9\u0bc8",
        "\u041a\u0440\u0430\u0441\u043d\u0430\u044f \u041a\u041e\u0428\u041a\u0410",
        "\u0447\u0435\u0440\u0432\u043e\u043d\u0438\u0439 \u043a\u0456\u0442",
        "\u10e9\u10d8\u10e2\u10d8",
        "\u13e3\u13b3\u13a9",
        "\u1789\u17b6",
        "\U00010400\U00010428",
        "\u1d00\u1d04\u1d1b",
        "m\u00e8o \u0111\u1ecf",
        "\u1220\u1208\u121d",
        "\u1e9e",
        "\U0001e900\U0001e922",
        "\u01c5 \u01c8",
        "\ua66e",
    ],
    "case": [
        "STRASSE Stra\u00dfe STRA\u1e9eE",
        "\u0130stanbul",
        "I\u0307",
        "\u0131\u0049",
        "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",
        "\u03a3",
        "\u0391\u03a3",
        "\u0391\u03a3.",
        "\u0391\u03a3.\u0391",
        "\u0391\u03a3 \u0391",
        "\u0391\u0301\u03a3\u0301",
        "a\u03a3b\u03a3",
        "\u03a3\u03a3",
        "\u0391\u03a3'\u0391",
        "\u0391\u00ad\u03a3",
        "\u0391\u03a3\u200d\u0391",
        "\u0391\u03a3\u4e00",
        "\ufb01sh \ufb03 \ufb05",
        "\u0149 \u01f0",
        "\u212a \u212b \u2126",
        "\uff28\uff45\uff4c\uff4c\uff4f",
        "\u24b6\u24d0",
        "\u1f88\u1fbc",
        "\u0391\u03a3" + END + "\u0391",
        "\U0001d400\U0001d41a",
        "MiXeD CaSe",
    ],
    "composition": [
        "e\u0301",
        "\u00e9",
        "E\u0301",
        "caf\u00e9 cafe\u0301",
        "a\u0323\u0307",
        "a\u0307\u0323",
        "\u0301",
        "\u0301a",
        " \u0301 ",
        "a\u0301\u0301\u0301\u0301",
        "\u0345",
        "a\u0345b",
        "\u03b1\u0345",
        "\u0391\u0345",
        "x\u0345\u0345y",
        "\u0344",
        "\u0958",
        "\u2adc",
        "\u1e9b\u0323",
        "\u212b",
        "\u2000",
        "\u037e",
        "\u0387",
        "n\u0303o",
        "z\u0335\u0310a\u0321\u034el\u0318g\u035do\u0361",
        "\u0f73",
        "\U0001d15e",
        "e\u200d\u0301",
        "e\0\u0301",
        "e\u00ad\u0301",
        "e \u0301",
        "e" + END + "\u0301",
    ],
    "special tokens": [
        START,
        END,
        START + END,
        "a " + START + " b",
        "a" + END + "b",
        " " + END + " ",
        END * 3,
        "<|STARTOFTEXT|>",
        "<|EndOfText|>",
        "a <|ENDOFTEXT|> b",
        "a<|ENDOFTEXT|>b",
        "!<|ENDOFTEXT|>",
        "<|ENDOFTEXT|>!",
        "!" + END,
        END + "!",
        "<|endoftext",
        "endoftext|>",
        "<| endoftext |>",
        "<|" + START + "|>",
        "<" + END,
        "<|endof" + END,
        "<|ENDOFTEXT|><|ENDOFTEXT|>",
        "<|\u017ftartoftext|>",
        "<|\u017fTARTOFTEXT|>x",
        "<|\ufb05artoftext|>",
        "<|endoftext\u200d|>",
        "'s" + END + "'s",
        "<|start" + START + "oftext|>",
        "<|end\u00adoftext|>",
        "\uff1c|endoftext|>",
        "a\n" + END + "\nb",
        "<cat-toy>",
        "a <cat-toy> on mars",
        "a<cat-toy>b",
        "<CAT-TOY>",
        "<|pad|>",
        "[PAD]",
        "<unk>",
    ],
    "long": [
        "a cat " * 30,
        "smiling face " * 12,
        "heart " * 21 + "x",
        "heart " * 22,
        "heart " * 23,
        "antidisestablishmentarianism" * 3,
        "a" * 120,
        "ab" * 60,
        "!" * 40,
        "1" * 30,
        "\u4e00" * 10,
        "\U0001f600" * 15,
        "Pneumonoultramicroscopicsilicovolcanoconiosis",
        "supercalifragilisticexpialidocious",
        ("a " * 40) + END,
        "masterpiece, best quality, " * 8,
        "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
    ],
}

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
        }
        fast_ids = fast(text, add_special_tokens=False)["input_ids"]
        if fast_ids != case["ids"]:
            case["fast_ids"] = fast_ids
        cases.append(case)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default="models/emoji/tokenizer", help="the embedded model's tokenizer")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("tests/data/tokenizer"))
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
