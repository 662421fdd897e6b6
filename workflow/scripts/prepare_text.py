"""Prepare a text on which importances calibrate, from a file or from the hub.

    prepare_text.py --text hub:Salesforce/wikitext/wikitext-2-raw-v1 --output data/calibration_wikitext.jsonl

It writes one document per row, for compute_masks.py --text. FILE.jsonl.json beside it has the text's sha256 and says where it
comes from.
"""

import argparse
from pathlib import Path

from sparseft.errors import InputError, run_script
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.section import parse_section
from sparseft.study.sources import CalibrationText
from sparseft.tasks.documents import TextPlace, documents_lines, source_file, write_source_text


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", required=True, help="a .jsonl file (field text), a .txt file, or hub:ORG/NAME[@REVISION]"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl file; its source is written beside it")
    return parser.parse_args()


def main() -> int:
    """Load the documents, and write both files together."""
    args = parse_args()
    if args.output.suffix != ".jsonl":
        raise InputError(f"--output {args.output}: not a .jsonl file", "write its name with .jsonl at the end")
    check_ours(args.output.parent, "text", args.output, source_file(args.output))
    section = parse_section(CalibrationText, {"text": args.text}, "masks.calibration")
    local = Path(section.local) if section.local else None
    check_apart([args.output, source_file(args.output)], [local])
    hold(args.output)
    place = TextPlace(local, section.hub, "train", "masks.calibration.NAME.text")
    documents = place.documents()
    if not any(document.strip() for document in documents):
        raise InputError(f"{section.text}: the text is empty", "give another text")
    write_source_text(args.output, documents_lines(documents), place.source())
    return 0


if __name__ == "__main__":
    run_script(main)
