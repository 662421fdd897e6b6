"""Write the complete configuration of a study to a file.

    write_configuration.py --text TEXT --output results/analysis/configuration.yaml

The workflow makes the text, because only Snakemake knows what --config added to the configuration files.
"""

import argparse
from pathlib import Path

from sparseft.errors import run_script
from sparseft.storage.atomic import atomic_file
from sparseft.storage.ownership import check_file


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="content of the file")
    parser.add_argument("--output", type=Path, required=True, help="the file")
    return parser.parse_args()


def main() -> int:
    """Write the text and return the exit code."""
    args = parse_args()
    # The first line says what the file is.
    check_file(args.output, args.text.partition("\n")[0])
    with atomic_file(args.output) as temporary:
        temporary.write_text(args.text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_script(main)
