"""Prepare the text of the perplexity: WikiText-2's test split from the hub, or a text of your own from a file.

    prepare_wikitext2.py --output data/wikitext2.txt

Writes the rows joined by blank lines, which evaluate.py --wikitext2 reads, and wikitext2.txt.json beside it: the text's sha256
and where it comes from.
"""

import argparse
import json
from pathlib import Path

from sparseft.errors import run_script
from sparseft.storage.files import atomic_files, check_apart, check_writable, hold, sha256
from sparseft.study.config import Perplexity, add_flags, parse_section
from sparseft.tasks.source import load_text, text_source

ASKED = ("local", "hub")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, Perplexity, ASKED)
    parser.add_argument("--output", type=Path, required=True, help="the text; its source is written beside it")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    source = Path(f"{args.output}.json")
    check_writable(args.output, source)
    asked = parse_section(Perplexity, {name: getattr(args, name) for name in ASKED}, "perplexity")
    local = Path(asked.local) if asked.local else None
    check_apart([args.output, source], [local])
    hold(args.output)
    text = load_text(local, asked.hub)
    with atomic_files(args.output, source) as (text_file, source_file):
        text_file.write_bytes(text.encode())
        content = {"source": text_source(local, asked.hub), "sha256": sha256(text_file)}
        source_file.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
