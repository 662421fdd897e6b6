"""Prepare the text of the perplexity: WikiText-2's test split from the hub, or your own text from a file.

    prepare_wikitext2.py --output data/wikitext2.txt

It writes the rows joined by blank lines, for evaluate.py --wikitext2. wikitext2.txt.json beside it has the text's sha256 and says
where it comes from.
"""

from pathlib import Path

from sparseft.command import Flags, run
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.sources import Perplexity
from sparseft.tasks.data_source import WIKITEXT2_PLACE, load_documents
from sparseft.tasks.rows import DOCUMENT_BREAK, source_file, write_source_text

DEFAULTS = Perplexity()


def main(*, output: Path, text: Flags[Perplexity] = DEFAULTS) -> None:
    """Load the text, and write both files together.

    Args:
        output: the text; its source is written beside it
    """
    check_ours(output.parent, "text", output, source_file(output))
    check_apart([output, source_file(output)], [Path(text.local)] if text.local else [])
    hold(output)
    documents, source = load_documents(text.local, text.hub or WIKITEXT2_PLACE, "test", "perplexity.local")
    write_source_text(output, [DOCUMENT_BREAK.join(documents)], source)


if __name__ == "__main__":
    run(main)
