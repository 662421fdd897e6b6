"""Prepare a text on which importances calibrate, from a file or from the hub.

    prepare_text.py --text hub:Salesforce/wikitext/wikitext-2-raw-v1 --output data/calibration_wikitext.jsonl

It writes one document per row, for compute_masks.py --text. FILE.jsonl.json beside it has the text's sha256 and says where it
comes from.
"""

import json
from pathlib import Path

from sparseft.command import run
from sparseft.errors import InputError
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.section import parse_section
from sparseft.study.sources import CalibrationText
from sparseft.tasks.data_source import load_documents
from sparseft.tasks.rows import source_file, write_source_text


def main(*, text: str, output: Path) -> None:
    """Load the documents, and write both files together.

    Args:
        text: a .jsonl file (field text), a .txt file, or hub:ORG/NAME[@REVISION]
        output: the .jsonl file; its source is written beside it
    """
    if output.suffix != ".jsonl":
        raise InputError(f"--output {output}: not a .jsonl file", "write its name with .jsonl at the end")
    section = parse_section(CalibrationText, {"text": text}, "masks.calibration")
    local = Path(section.local) if section.local else None
    check_ours(output.parent, "text", output, source_file(output))
    check_apart([output, source_file(output)], [local])
    hold(output)
    documents, source = load_documents(local, section.hub, "train", "masks.calibration.NAME.text")
    if not any(document.strip() for document in documents):
        raise InputError(f"{text}: the text is empty", "give another text")
    lines = (json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)
    write_source_text(output, lines, source)


if __name__ == "__main__":
    run(main)
