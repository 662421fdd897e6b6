"""Prepare WikiText-2's test split as one text, from a file or from the hub.

    prepare_wikitext2.py --hub Salesforce/wikitext/wikitext-2-raw-v1 --output data/wikitext2.txt

Writes the rows joined by blank lines, which evaluate.py --wikitext2 reads.
"""

import argparse
from pathlib import Path

from sparseft.config import Perplexity
from sparseft.errors import run_script
from sparseft.files import atomic_file
from sparseft.tasks.source import load_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--local", type=Path, help=".jsonl file of wikitext-2-raw-v1's rows, field text, instead of the hub"
    )
    parser.add_argument(
        "--hub", default=Perplexity.model_fields["hub"].default, help="ORG/NAME[/CONFIGURATION][@REVISION]"
    )
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    text = load_text(args.local, args.hub)
    with atomic_file(args.output) as temporary:
        temporary.write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    run_script(main)
