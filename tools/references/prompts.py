"""Records what long and weighted prompts become: a Python model of it on the live tokenizers and text encoders.

    python tools/references/prompts.py [--out tests/data]

Writes prompts/weights.json, prompts and the parts that their brackets make (or null, where a weight is no number), and
prompts/embeddings.pt, for each of `CASES` the embeddings that a tiny pipeline's UNet would get.

The model follows diffusers' community pipeline lpw_stable_diffusion.py in how brackets are read, in reading prompts
chunk by chunk, and in restoring the mean of weighted states. As in the web UIs, what isn't a whole chunk ends with the
end token and then has padding, so that a short prompt without weights is what diffusers' own pipelines make of it (the
community pipeline has the end token behind the padding, which differs where padding is another token). SDXL's encoders
are each treated in that way, and the pooled output is the first chunk's. Digits are those of ASCII.
"""

import argparse
import importlib.metadata
import json
import math
import re
import sys
from pathlib import Path

import torch

from tiny_pipelines import ROOT, tiny_pipeline

sys.path.insert(0, str(ROOT / "tools"))
from export import quiet  # noqa: E402  (tools/ is no package)

COMMAND = "python tools/references/prompts.py"
SYNTAX = re.compile(
    r"""\\(?P<escaped>[()\[\]\\]?) | (?P<opening>[(\[]) | :(?P<weight>[+-]?[0-9.]+)\) | (?P<closing>[)\]])
        | [^()\[\]\\:]+ | :""",
    re.X,
)
FACTORS = {"(": 1.1, "[": 1 / 1.1}
OPENING = {")": "(", "]": "["}

# ---- The model


def parse(prompt):
    """[[text, weight], ...] of a prompt with brackets. @throws ValueError for a weight that is no finite number"""
    parts, opened = [], {"(": [], "[": []}

    def weigh(begin, factor):
        for part in parts[begin:]:
            part[1] *= factor

    for match in SYNTAX.finditer(prompt):
        closing = "(" if match["weight"] else OPENING.get(match["closing"])
        if match["escaped"] is not None:
            parts.append([match["escaped"], 1.0])
        elif match["opening"]:
            opened[match["opening"]].append(len(parts))
        elif closing and opened[closing]:
            factor = float(match["weight"]) if match["weight"] else FACTORS[closing]
            if not math.isfinite(factor):
                raise ValueError(f"{match['weight']} isn't finite")
            weigh(opened[closing].pop(), factor)
        else:
            parts.append([match.group(), 1.0])
    for bracket, begins in opened.items():
        for begin in begins:
            weigh(begin, FACTORS[bracket])
    merged = parts[:1] or [["", 1.0]]
    for text, weight in parts[1:]:
        if weight == merged[-1][1]:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged


def encoders(pipe):
    """Pairs of tokenizer and text encoder."""
    pairs = [(pipe.tokenizer, pipe.text_encoder)]
    if hasattr(pipe, "text_encoder_2"):
        pairs.append((pipe.tokenizer_2, pipe.text_encoder_2))
    return pairs


def tokenize(pipe, tokenizer, prompt, weighting):
    """Ids without start and end, and their weights."""
    prompt, ids, weights = pipe.maybe_convert_prompt(prompt, tokenizer), [], []
    for text, weight in parse(prompt) if weighting else [[prompt, 1.0]]:
        part = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        weights += [weight] * len(part)
    return ids, weights


def chunk(tokenizer, ids, weights, index):
    """The ids of one chunk with start, end and padding, and a weight for each."""
    length = tokenizer.model_max_length
    part = slice(index * (length - 2), (index + 1) * (length - 2))
    whole = [tokenizer.bos_token_id, *ids[part], tokenizer.eos_token_id]
    weighed = [1.0, *weights[part]]
    whole += [tokenizer.pad_token_id] * (length - len(whole))
    return whole, weighed + [1.0] * (length - len(weighed))


def read(pipe, encoder, chunks, clip_skip):
    """States [1, L, D] of one chunk's ids and what they pool."""
    output = encoder(torch.tensor([chunks]), output_hidden_states=True)
    if hasattr(pipe, "text_encoder_2"):
        return output.hidden_states[-2 - clip_skip], output[0]
    return encoder.text_model.final_layer_norm(output.hidden_states[-1 - clip_skip]), output.pooler_output


def encode(pipe, tokenized, count, clip_skip, weighting):
    """States and pooled output of one prompt, whose ids and weights are given for each encoder, in `count` chunks."""
    states = []
    for (tokenizer, encoder), (ids, weights) in zip(encoders(pipe), tokenized, strict=True):
        chunks = [chunk(tokenizer, ids, weights, index) for index in range(count)]
        outputs = [read(pipe, encoder, chunk_ids, clip_skip) for chunk_ids, _ in chunks]
        plain = torch.cat([state for state, _ in outputs], dim=1)
        if weighting:
            factors = torch.tensor([weight for _, chunk_weights in chunks for weight in chunk_weights])
            weighted = plain * factors.to(plain.dtype)[None, :, None]
            plain = weighted * (plain.float().mean() / weighted.float().mean()).to(plain.dtype)
        states.append(plain)
    return torch.cat(states, dim=-1), outputs[0][1]


def embeddings(
    pipe,
    prompts,
    negative_prompt=None,
    prompt_2=None,
    negative_prompt_2=None,
    prompt_weighting=False,
    max_prompt_chunks=1,
    clip_skip=0,
):
    """What diffusers' pipeline takes for prompts: prompt_embeds [B, L, D] and so on, of guided runs."""
    pairs = [(prompt, prompt_2) for prompt in prompts] + [(negative_prompt or "", negative_prompt_2)]
    tokenized = [
        [
            tokenize(pipe, tokenizer, text if i == 0 or text_2 is None else text_2, prompt_weighting)
            for i, (tokenizer, _) in enumerate(encoders(pipe))
        ]
        for text, text_2 in pairs
    ]
    room = pipe.tokenizer.model_max_length - 2
    needed = max(math.ceil(len(ids) / room) for each in tokenized for ids, _ in each)
    count = min(max_prompt_chunks, max(1, needed))
    skips = [clip_skip] * len(prompts) + [0]  # as in diffusers, not for the negative prompt
    encoded = [encode(pipe, each, count, skip, prompt_weighting) for each, skip in zip(tokenized, skips, strict=True)]
    states, pooled = (torch.cat(values) for values in zip(*encoded, strict=True))
    if negative_prompt is None and pipe.config.get("force_zeros_for_empty_prompt"):
        states[-1], pooled[-1] = 0, 0
    batch = len(prompts)
    result = {"prompt_embeds": states[:batch], "negative_prompt_embeds": states[batch:].repeat(batch, 1, 1)}
    if hasattr(pipe, "text_encoder_2"):
        result |= {"pooled_prompt_embeds": pooled[:batch], "negative_pooled_prompt_embeds": pooled[batch:]}
        result["negative_pooled_prompt_embeds"] = result["negative_pooled_prompt_embeds"].repeat(batch, 1)
    return result


# ---- Recording

LONG = "a red heart and (two:1.4) green apples, " * 4
PARSED = [
    "a red heart", "", " ", "a (red) heart", "a [red] heart", "(a:1.3)", "((a))", "(((a)))", "[[[a]]]", "([a])",
    "[(a)]",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", "(un)(finished)", "(a:1.1)(b)", "[a][b](c:0.9)",
    "(a (b:2) [c] d:0.5) e", "(a:0)", "(a:-1.5)", "(a:+.5)", "(a:2.)", "(a:00.70)", "(a:-0)",
    # Not closed, nothing to close, crossing
    "(", ")", "[", "]", "(a", "[a", "((a", "(a [b", "[a (b", "([a)]", "[(a])", "a) b]", "a:1.5) b", ")a(", "]a[",
    "(a))", "[a]]", "(a:1.2))", "(a (b:1.2)", "(a:1.2):1.3)", "([a:1.2)", "[a:1.2]", "[(a]:1.2)", ":1.2)", "(:1.2)",
    # Nothing inside
    "()", "[]", "()()", "(())", "(:2)", "([])a", "a()b", "a(:3)b",
    # No weights
    "(a:)", "(a:b)", "(a: 1.2)", "(a:1.2 )", "(a:1e3)", "(a:1,2)", "(a:+)", "(a:--1)", "(a:1:2)", "(a::2)", "a:b:c",
    "::", "(a:0x2)", "(a:\u0661)", "(a:\uff11)",
    # No numbers
    "(a:.)", "(a:-.)", "(a:1.2.3)", "(a:..5)", "(a:" + "9" * 400 + ")", "a:1.2.3)",
    # Escapes
    r"\(a\)", r"\[a\]", r"\\", r"\\\\", r"\a", "\\", r"(\(a\):1.2)", r"(a\:1.2)", r"(a\)", r"\(a)", r"[a\]:2)",
    r"((a)\:1.0)(b)", r"\\(a)", r"\\\(a\\\)", r"(a)\(b)", r"(a\\)",
    # Texts other than ASCII
    "(\u732b:1.2) \u5fc3", "(caf\u00e9) [\U0001f600]", "\uff08a\uff09", "a\u200d(b)\n[c]\t",
]  # fmt: skip
WEIGHTING, CHUNKS = dict(prompt_weighting=True), dict(max_prompt_chunks=3)
CASES = [
    ("sd1", [LONG, "panda"], CHUNKS),
    ("sd1", ["panda"], CHUNKS | dict(negative_prompt="[blue] " * 9, clip_skip=1)),
    ("textual_inversion", ["a (red:1.5) heart!, [green] (((apple)))"], WEIGHTING),
    ("textual_inversion", ["a (red:0) heart", "(panda:-0.7), face"], WEIGHTING),
    ("textual_inversion", ["((a) [b", "a:1.5) b]"], WEIGHTING | dict(negative_prompt=r"(blue:1.3) \(sky\)")),
    ("textual_inversion", ["", "()"], WEIGHTING),
    ("textual_inversion", [LONG, "panda"], WEIGHTING | CHUNKS | dict(negative_prompt="(blue:1.2)")),
    ("textual_inversion", ["panda"], WEIGHTING | CHUNKS | dict(negative_prompt="[blue] " * 25, clip_skip=1)),
    ("textual_inversion", [LONG * 2], WEIGHTING | dict(max_prompt_chunks=2)),
    ("sdxl", ["a (red:1.5) heart, [green] apple"], WEIGHTING),
    ("sdxl", [LONG, "panda!"], WEIGHTING | CHUNKS | dict(negative_prompt="(blue!:1.2)", clip_skip=1)),
    ("sdxl", ["a (cat)"], WEIGHTING | CHUNKS | dict(prompt_2="[sun] " * 25, negative_prompt_2="(moon:0.5)")),
    ("sdxl", [LONG], CHUNKS),
]  # fmt: skip


def parsed_or_null(prompt):
    try:
        return parse(prompt)
    except ValueError:
        return None


def recorded(pipe, prompts, options):
    """Its embeddings; the negative prompt's only once."""
    tensors = embeddings(pipe, prompts, **options)
    return {name: tensor[:1].clone() if "negative" in name else tensor for name, tensor in tensors.items()}


def check_plain(pipe):
    """Without weights and in one chunk, the model is what diffusers' own pipeline does."""
    prompts = ["a (red:1.5) heart", LONG]
    ours = embeddings(pipe, prompts, negative_prompt="[blue]!")
    arguments = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    theirs = pipe.encode_prompt(prompts, negative_prompt=["[blue]!"] * 2, **arguments)
    for (name, our), their in zip(ours.items(), theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5, msg=name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data")
    folder = parser.parse_args().out / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    quiet()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    table = [{"prompt": prompt, "parts": parsed_or_null(prompt)} for prompt in PARSED]
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    content = {"command": COMMAND, "versions": versions, "cases": table}
    (folder / "weights.json").write_text(json.dumps(content, indent=1) + "\n")
    pipes = {variant: tiny_pipeline(variant) for variant, _, _ in CASES}
    for pipe in pipes.values():
        check_plain(pipe)
    cases = [
        {"variant": variant, "prompts": prompts, "options": options} | recorded(pipes[variant], prompts, options)
        for variant, prompts, options in CASES
    ]
    torch.save({"cases": cases}, folder / "embeddings.pt")
    print(f"{len(table)} prompts parsed, {len(cases)} encoded")


if __name__ == "__main__":
    main()
