"""Prepare WikiText-2's test split as one text, from a file or from the hub.

    prepare_wikitext2.py --output data/wikitext2.txt

Writes the rows joined by blank lines, which evaluate.py --wikitext2 reads.
"""

import argparse
from pathlib import Path

from sparseft.config import Perplexity, add_flags, parse_section
from sparseft.errors import run_script
from sparseft.files import atomic_file, check_apart, check_writable, hold
from sparseft.tasks.source import load_text

ASKED = ("local", "hub")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, Perplexity, ASKED)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    check_writable(args.output)
    asked = parse_section(Perplexity, {name: getattr(args, name) for name in ASKED}, "perplexity")
    check_apart([args.output], [Path(asked.local)] if asked.local else [])
    hold(args.output)
    text = load_text(Path(asked.local) if asked.local else None, asked.hub)
    with atomic_file(args.output) as temporary:
        temporary.write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    run_script(main)
