"""Prepare a text on which importances calibrate, or that of the perplexity, from a file or from the hub.

    prepare_text.py --text hub:allenai/c4/en/c4-train.00000-of-01024.json.gz --output data/calibration_c4.jsonl
    prepare_text.py --text hub:Salesforce/wikitext/wikitext-2-raw-v1 --split test --output data/wikitext2.txt

It writes one document per row for compute_masks.py --text, or the documents joined by blank lines for evaluate.py
--wikitext2. FILE.json beside it has the text's sha256 and says where it comes from.
"""

from pathlib import Path
from typing import Any, Literal

from sparseft.data.loading import prepare_text
from sparseft.study.config import Config


def settings(config: Config, wildcards: Any) -> dict:
    """Return the text to prepare: one for a calibration, or that of the perplexity."""
    if name := getattr(wildcards, "text", None):
        return {"text": config.texts[name].text}
    return {"text": config.perplexity.text, "split": "test"} if config.perplexity else {}


# Raise it when the results change.
VERSION = 1


def run(*, text: str, output: Path, split: Literal["train", "test"] = "train") -> None:
    """Load the documents, and write both files together.

    Args:
        text: a .jsonl file (field text), a .txt file, or hub:ORG/NAME[/CONFIGURATION or /FILE][@REVISION]
        output: the .jsonl or .txt file; its source is written beside it
        split: the split of a data set on the hub
    """
    prepare_text(output, text, split)
