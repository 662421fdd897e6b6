"""Prepare the text of the perplexity: WikiText-2's test split from the hub, or your own text from a file.

    prepare_wikitext2.py --output data/wikitext2.txt

It writes the rows joined by blank lines, for evaluate.py --wikitext2. wikitext2.txt.json beside it has the text's sha256 and says
where it comes from.
"""

from pathlib import Path

from sparseft.command import Flags, run
from sparseft.data.loading import WIKITEXT2_PLACE, prepare_text
from sparseft.study.sources import Perplexity


def main(*, output: Path, text: Flags[Perplexity] = Perplexity()) -> None:
    """Load the text, and write both files together.

    Args:
        output: the text; its source is written beside it
    """
    prepare_text(output, text.local, text.hub or WIKITEXT2_PLACE, "test", "perplexity.local", as_rows=False)


if __name__ == "__main__":
    run(main)
