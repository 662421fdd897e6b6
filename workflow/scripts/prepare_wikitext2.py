"""Prepare the text of the perplexity: WikiText-2's test split from the hub, or your own text from a file.

    prepare_wikitext2.py --output data/wikitext2.txt

It writes the rows joined by blank lines, for evaluate.py --wikitext2. wikitext2.txt.json beside it has the text's sha256 and says
where it comes from.
"""

import argparse
from pathlib import Path

from sparseft.errors import run_script
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.config import Perplexity, add_flags
from sparseft.study.section import parse_section
from sparseft.tasks.data_source import load_text, perplexity_text
from sparseft.tasks.documents import source_file, write_source_text

SOURCE_FLAGS = ("local", "hub")


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, Perplexity, SOURCE_FLAGS)
    parser.add_argument("--output", type=Path, required=True, help="the text; its source is written beside it")
    return parser.parse_args()


def main() -> int:
    """Load the text, and write both files together."""
    args = parse_args()
    check_ours(args.output.parent, "text", args.output, source_file(args.output))
    section = parse_section(Perplexity, {name: getattr(args, name) for name in SOURCE_FLAGS}, "perplexity")
    local = Path(section.local) if section.local else None
    check_apart([args.output, source_file(args.output)], [local])
    hold(args.output)
    text = load_text(local, section.hub)
    write_source_text(args.output, [text], perplexity_text(local, section.hub).source())
    return 0


if __name__ == "__main__":
    run_script(main)
