"""Load the rows of lm-eval's tasks that may become selection rows (tasks/selection_rows.py).

A task of lm-eval is evaluated on its test_split. If it also has a validation_split, that split is for choices like this one. It
is not taken if the worked examples come from it, because a question could then stand before itself.
"""

from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, disable_progress_bars

from sparseft.evaluation.lm_eval_definitions import read_definition
from sparseft.evaluation.lm_eval_rendering import rendered_rows
from sparseft.evaluation.lm_eval_splits import Splits, load_datasets, processed_rows, rows_table
from sparseft.storage.hashes import sha256
from sparseft.study.sources import TaskData
from sparseft.tasks.selection_rows import SELECTION, Candidates, local_file, shuffled, unused_rows
from sparseft.tasks.task import Row, Task

# Rows that are rendered at once. Most candidates are never needed, and rendering takes about a millisecond each.
_AT_ONCE = 100


def load_lm_eval_candidates(task: Task, data: TaskData, prepared: dict[str, list[Row]]) -> Candidates:
    """Return the candidates of a task of lm-eval, which is prepared already. They are rendered as they are taken.

    Raises InputError if they cannot be loaded, or if the training takes all rows."""
    disable_progress_bars()
    config = read_definition(data.lm_eval, f"tasks.{task.name}.lm_eval")[0]
    datasets, source = load_datasets(task.name, config, data)
    own_file = local_file(Path(data.local), SELECTION, is_text=False) if data.local else None
    if own_file:
        datasets |= {SELECTION: rows_table(task.name, own_file)}
        source = {"local": sha256(own_file)}
    splits = Splits(task.name, config, bool(data.local))
    training_split = splits.origin["train"]
    split = _own_split(splits, datasets)
    docs = list(enumerate(processed_rows(task.name, config, datasets, split or training_split), start=1))
    if split is None:
        docs = unused_rows(docs, task.name, data)
    rows = _rendered(task, shuffled(docs, task.name, data.seed), prepared["train"])
    return Candidates(rows, source, split or "train")


def _own_split(splits: Splits, datasets: dict[str, Dataset]) -> str | None:
    """Return the split of the data set that is for choices; None if there is none."""
    if SELECTION in datasets:
        return SELECTION
    split = splits.config.get("validation_split")
    is_used = split in (splits.config.get("test_split"), splits.origin["train"], splits.few_shot)
    is_free = not splits.is_local and splits.config.get("test_split") and split in datasets and not is_used
    return split if is_free else None


def _rendered(task: Task, docs: list[tuple[int, dict]], train: list[Row]) -> Iterator[Row]:
    """Yield documents as rows. They are rendered in the place of the validation rows."""
    worked_examples = [(number, row["doc"]) for number, row in enumerate(train[: max(1, task.few_shot)], start=1)]
    for start in range(0, len(docs), _AT_ONCE):
        chosen = {"train": worked_examples, "validation": docs[start : start + _AT_ONCE]}
        yield from rendered_rows(task, chosen)["validation"]
