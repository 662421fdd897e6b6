"""Define a task of general text: its documents become sequences of one length, and the loss is on every token.

The documents of a split are joined by blank lines, and the text is tokenised once. Then it is cut into sequences of `length`
tokens that do not overlap, and the tokens after the last whole sequence are left out (language_model/batches.py).
"""

from pathlib import Path

from sparseft.errors import InputError
from sparseft.tasks.data_source import Examples, OwnData, choose_rows, load_examples
from sparseft.tasks.documents import DOCUMENT, read_documents
from sparseft.tasks.metrics import LOSS, TOKEN_PERPLEXITY
from sparseft.tasks.task import SPLITS, Task

# Tokens per sequence, if the configuration does not say.
LENGTH = 512


def load_own_examples(name: str, data: OwnData) -> Examples:
    """Return the documents in the folder data.local, or at the place data.hub.

    Raises InputError if they cannot be loaded, or if a split has no text."""
    task = task_of(name, {"kind": "text", "length": data.length or LENGTH})
    if data.local:
        examples = _local_examples(task, data)
    else:
        examples = load_examples(task, data.numbers, data.seed, None, data.hub)
    for split, rows in examples.rows.items():
        if not any(row["text"].strip() for row in rows):
            raise InputError(f"tasks.{name}: the {split} text is empty", "give documents that have text")
    return examples


def task_of(name: str, definition: dict) -> Task:
    """Return the task that a definition describes, with `length` tokens per sequence."""
    length = definition.get("length")
    if not isinstance(length, int) or length < 2:
        raise InputError(f"{name}: a length of {length!r} tokens", "prepare the task again")
    return Task(
        name=name,
        fields=DOCUMENT.fields,
        # Documents are compared whole.
        prompt=lambda row: row["text"],
        answer=lambda row: "",
        sequence_length=length,
        headline=LOSS,
        metrics=(LOSS, TOKEN_PERPLEXITY),
        from_hub=lambda row: {"text": row["text"]} if "text" in row else row,
        definition=definition,
    )


def _local_examples(task: Task, data: OwnData) -> Examples:
    """Return the documents of the files in the folder data.local."""
    rows = {}
    digests = {}
    for split in SPLITS:
        documents, digests[split] = read_documents(_file_of(Path(data.local), split))
        all_rows = [{"text": document} for document in documents]
        rows[split] = choose_rows(all_rows, task.name, split, data.numbers[split], data.seed)
    return Examples(task, rows, {"local": digests})


def _file_of(folder: Path, split: str) -> Path:
    """Return the file of a split: SPLIT.txt or SPLIT.jsonl. Raises InputError if there are both."""
    text = folder / f"{split}.txt"
    rows = folder / f"{split}.jsonl"
    if text.exists() and rows.exists():
        raise InputError(f"{folder}: there are both {text.name} and {rows.name}", "remove one of them")
    return text if text.exists() else rows
