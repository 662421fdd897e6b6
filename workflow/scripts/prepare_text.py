"""Prepare a text on which importances calibrate, from a file or from the hub.

    prepare_text.py --text hub:Salesforce/wikitext/wikitext-2-raw-v1 --output data/calibration_wikitext.jsonl

It writes one document per row, for compute_masks.py --text. FILE.jsonl.json beside it has the text's sha256 and says where it
comes from.
"""

from pathlib import Path

from sparseft.command import run
from sparseft.data.loading import prepare_text
from sparseft.errors import InputError
from sparseft.study.section import parse_section
from sparseft.study.sources import CalibrationText


def main(*, text: str, output: Path) -> None:
    """Load the documents, and write both files together.

    Args:
        text: a .jsonl file (field text), a .txt file, or hub:ORG/NAME[@REVISION]
        output: the .jsonl file; its source is written beside it
    """
    section = parse_section(CalibrationText, {"text": text}, "masks.calibration")
    if section.has_own_windows:
        raise InputError(f"--text {text}: the model samples it", "use sample_text.py")
    prepare_text(output, section.local, section.hub, "train", "masks.calibration.NAME.text", as_rows=True)


if __name__ == "__main__":
    run(main)
