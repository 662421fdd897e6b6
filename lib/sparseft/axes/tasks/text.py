"""Define a task of general text: its documents become sequences of one length, and the loss is on every
token of a sequence but its first.

The documents of a split are joined by blank lines, and the text is tokenised once. Then it is cut into sequences of
`length` tokens that do not overlap, and the tokens after the last whole sequence are left out
(models/language_model/batches.py). Windows that a model has sampled are such sequences already, as its token ids.
"""

from operator import itemgetter

from sparseft.axes.tasks.metrics import LOSS, TOKEN_PERPLEXITY
from sparseft.axes.tasks.task import DOCUMENT, TEXT_LENGTH, WINDOW, Lengths, Task

# Raise it when the prompts, answers or rows of such a task change.
version = 1
# Guesses for the estimates, until the data are prepared.
LENGTHS = Lengths(rows=(1000, 100), mean=TEXT_LENGTH, long=TEXT_LENGTH, answer=TEXT_LENGTH, choices=0)


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes, with `length` tokens per sequence.

    With `windows`, the rows have token ids."""
    rows = WINDOW if definition.get("windows") else DOCUMENT
    return Task(
        name=name,
        fields=rows.fields,
        converted=rows.converted,
        # Documents are compared whole.
        prompt=itemgetter("text"),
        answer=lambda row: "",
        sequence_length=definition["length"],
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        definition=definition,
    )
