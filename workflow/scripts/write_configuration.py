"""Write the complete configuration of a study to a file.

    write_configuration.py --text TEXT --output results/analysis/configuration.yaml

The workflow makes the text, because only Snakemake knows what --config added to the configuration files.
"""

from pathlib import Path

from sparseft.command import run
from sparseft.storage.atomic import atomic_file
from sparseft.storage.ownership import check_file


def main(*, text: str, output: Path) -> None:
    """Write the text.

    Args:
        text: content of the file
        output: the file
    """
    # The first line says what the file is.
    check_file(output, text.partition("\n")[0])
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main)
