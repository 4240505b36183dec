"""Makes all of tests/data again: what Python's packages give, for the C++ tests to compare with.

    python tools/make_references.py

Runs the scripts of tools/references one after the other (some minutes); each says in its own words what it records.
"""

import subprocess
import sys
from pathlib import Path

REFERENCES = Path(__file__).parent / "references"
SCRIPTS = (
    "tokenizer.py",
    "schedulers.py",
    "policies.py",
    "pipelines.py",
    "controlnet.py",
    "ddpm.py",
    "class_conditional.py",
    "svd.py",
    "text_to_video_zero.py",
    "prompts.py",
    "macs.py",
    "images.py",
    "jpeg.py",
)

for script in SCRIPTS:
    print(script, flush=True)
    subprocess.run([sys.executable, "-W", "ignore", REFERENCES / script], check=True)
