"""Load the rows of lm-eval's tasks, and say which splits of a data set they are."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from sparseft.errors import InputError
from sparseft.evaluation.lm_eval_rendering import reported
from sparseft.study.sources import TaskData
from sparseft.tasks.data_source import COMMIT, hub_dataset, hub_source, local_source
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import SPLITS, RowFormat

# Keys of a definition that say where rows come from.
_DATA_KEYS = (
    *("dataset_path", "dataset_name", "dataset_kwargs", "process_docs"),
    *("training_split", "validation_split", "test_split", "fewshot_split"),
)


@dataclass(frozen=True)
class Splits:
    """Say which splits of a data set a study takes, and change lm-eval's definition `config` for them.

    The training rows are those of training_split. The validation rows are those that lm-eval evaluates: of test_split, or
    else of validation_split. A folder of the user's (`is_local`) has one file for each."""

    name: str
    config: dict
    is_local: bool

    @property
    def is_trainable(self) -> bool:
        """Return whether there are training rows."""
        return self.is_local or bool(self.config.get("training_split"))

    @property
    def few_shot(self) -> str | None:
        """Return the split that the definition names for worked examples."""
        return (self.config.get("fewshot_config") or {}).get("split", self.config.get("fewshot_split"))

    @property
    def origin(self) -> dict[str, str]:
        """Return the name in the data set of the splits `train` and `validation`.

        Without training rows, `train` is the split of the worked examples, or else the evaluated one. Raises InputError if
        no split is evaluated."""
        if self.is_local:
            return {split: split for split in SPLITS}
        evaluated = self._evaluated
        if not evaluated:
            raise InputError(
                f"tasks.{self.name}: the task has neither test_split nor validation_split", "set one of them"
            )
        return {"train": self.config.get("training_split") or self.few_shot or evaluated, "validation": evaluated}

    def changes(self, rows_of: Callable[[str], list[dict]]) -> dict:
        """Return the keys that make the definition one over the splits `train` and `validation`; None drops a key.

        `rows_of` returns the rows of a split of the data set, for worked examples that are no training rows. Raises InputError
        if a question would stand with its answer before itself."""
        # lm-eval draws one more worked example, and leaves out the row itself, if both come from the split that these keys name.
        leaves_out = self.few_shot == self.config.get("test_split")
        split = samples = None
        if self.config.get("num_fewshot") and self.few_shot is not None:
            if self.few_shot == self._evaluated and leaves_out:
                split = "validation"
            elif self.few_shot == self._evaluated and not self.is_trainable:
                raise InputError(
                    f"tasks.{self.name}: worked examples come from the evaluated split {self._evaluated}, so that a question"
                    " may stand before itself",
                    "set fewshot_split to another split",
                )
            elif (
                self.is_local
                or not self.is_trainable
                or self.few_shot in (self.config.get("training_split"), self._evaluated)
            ):
                split = "train"
            else:
                samples = rows_of(self.few_shot)
        return {
            **dict.fromkeys(_DATA_KEYS),
            # lm-eval compares fewshot_split with test_split, so the key decides whether it leaves out the row again.
            "validation_split" if leaves_out == (split is None) else "test_split": "validation",
            "training_split": "train" if self.is_trainable else None,
            "fewshot_split": split,
            "fewshot_config": {"split": None} | ({} if samples is None else {"samples": samples}),
        }

    @property
    def _evaluated(self) -> str | None:
        """Return the split that lm-eval evaluates."""
        return self.config.get("test_split") or self.config.get("validation_split")


def load_datasets(name: str, config: dict, data: TaskData) -> tuple[dict[str, Dataset], dict]:
    """Return the rows of a task by split, and their source for manifest.json.

    They come from the user's folder, or from the hub. A hub's revision that is not fixed gets a warning that says how to fix
    it. Raises InputError if they cannot be loaded."""
    if data.local:
        folder = Path(data.local)
        return {split: rows_table(name, folder / f"{split}.jsonl") for split in SPLITS}, local_source(folder)
    place = data.hub or _place_of(name, config)
    datasets = hub_dataset(place, f"tasks.{name}.local")
    source = hub_source(place, datasets)
    if not re.fullmatch(COMMIT, place.partition("@")[2]):
        print(
            f"warning: tasks.{name}: the newest revision of {source['hub']} was loaded; to keep it, set tasks.{name}.hub to"
            f" {source['hub']}@{source['revision'] or 'COMMIT'}",
            file=sys.stderr,
        )
    return datasets, source


def rows_table(name: str, file: Path) -> Dataset:
    """Return the rows of a file as a table. Raises InputError if they do not all have the same fields, with one type each."""
    rows = read_rows(file, RowFormat(name=name, fields={}))
    for number, row in enumerate(rows, start=1):
        if differing := row.keys() ^ rows[0].keys():
            raise InputError(
                f"{file}: rows 1 and {number} differ in having the field {min(differing)!r}",
                "write the same fields in every row, null where there is no value",
            )
    with reported(name, f"the rows of {file}"):
        return Dataset.from_list(rows)


def _place_of(name: str, config: dict) -> str:
    """Return the place on the hub that a definition names. Raises InputError if it names none, or needs more than a name."""
    path = str(config.get("dataset_path") or "")
    kwargs = config.get("dataset_kwargs") or {}
    # The newest data sets have no code, so that lm-eval itself drops trust_remote_code.
    needed = kwargs.keys() - {"trust_remote_code", "revision"}
    if needed or path.count("/") != 1 or path.startswith((".", "/")):
        what = f"dataset_kwargs.{min(needed)} is not supported" if needed else f"dataset_path {path!r} is not ORG/NAME"
        raise InputError(
            f"tasks.{name}: {what}",
            f"set tasks.{name}.local to a folder with train.jsonl and validation.jsonl, or tasks.{name}.hub to ORG/NAME",
        )
    place = "/".join(filter(None, (path, config.get("dataset_name"))))
    return f"{place}@{kwargs['revision']}" if kwargs.get("revision") else place


def processed_rows(name: str, config: dict, datasets: dict[str, Dataset], split: str) -> list[dict]:
    """Return the rows of a split after the task's process_docs."""
    if split not in datasets:
        raise InputError(f"tasks.{name}: the data set has no split {split}, only {', '.join(datasets)}", "correct hub")
    if not config.get("process_docs"):
        return list(datasets[split])
    with reported(name, f"the rows of {split}"):
        return list(config["process_docs"](datasets[split]))
