"""What a full step reaches of the machine's matrix multiplication, where its time goes, and what memory it takes."""

import json
import subprocess

import models
from turns import BIN, MODELS, row


def rows(args):
    for dtype in args.dtype:
        for latent_size in args.latent_size:
            yield from measure(args, dtype, latent_size)


def measure(args, dtype, latent_size):
    report = MODELS / "limits.json"
    command = [BIN / "unet_bench", "--unet", models.traced_unet(args.model, dtype), "--dtype", dtype, "--profile"]
    command += ["--latent-size", latent_size, "--text", args.text, "--batch", args.batch, "--threads", args.threads]
    command += ["--rounds", args.rounds, "--json", report]
    subprocess.run([str(part) for part in command], check=True)
    found = json.loads(report.read_text())
    values = {line["name"]: line["value"] for line in found["rows"]}
    case = f"{dtype}, {latent_size}, batch {args.batch}"
    reached = values["full step / matrix multiplication"]
    yield row("of the peak", case, "full step / matrix multiplication", reached, "%", None, ">= 70")
    for operator in found["operators"]:
        if operator["share"] >= 0.01:
            yield row("time by operator", case, operator["name"], 100 * operator["share"], "%")
    for name in "plain", "helper":
        key = f"peak: {name} / weights + activations"
        yield row("resident memory", case, key, values[key], "%", None, "<= 115" if name == "helper" else None)
