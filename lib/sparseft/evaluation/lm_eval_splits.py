"""Load the rows of lm-eval's tasks, and say which splits of a data set they are."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from sparseft.errors import InputError, one_line
from sparseft.evaluation.lm_eval_rendering import reported
from sparseft.evaluation.lm_eval_yaml import with_functions
from sparseft.study.config import TaskData
from sparseft.tasks.data_source import local_source
from sparseft.tasks.hub import COMMIT, hub_dataset, hub_source
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import SPLITS, RowFormat

# Keys of a definition that say where rows come from.
_DATA_KEYS = (
    *("dataset_path", "dataset_name", "dataset_kwargs", "process_docs"),
    *("training_split", "validation_split", "test_split", "fewshot_split"),
)


@dataclass(frozen=True)
class Splits:
    """Say which splits of a data set a study takes, and rewrite lm-eval's definition `config` for them.

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
    def origin(self) -> dict[str, str]:
        """Return the name in the data set of the splits `train` and `validation`.

        Without training rows, `train` is the split of the worked examples, or else the evaluated one. Raises InputError if
        no split is evaluated."""
        if self.is_local:
            return {split: split for split in SPLITS}
        if not self._evaluated:
            raise InputError(
                f"tasks.{self.name}: the task has neither test_split nor validation_split", "set one of them"
            )
        return {
            "train": self.config.get("training_split") or self._few_shot or self._evaluated,
            "validation": self._evaluated,
        }

    def rewritten(self, rows_of: Callable[[str], list[dict]]) -> dict:
        """Return the definition over the splits `train` and `validation`, without what says where rows come from.

        `rows_of` returns the rows of a split of the data set, for worked examples that are no training rows. Raises InputError
        if a question would stand with its answer before itself."""
        config = {key: value for key, value in self.config.items() if key not in _DATA_KEYS}
        # lm-eval draws one more worked example, and leaves out the row itself, if both come from the split that these keys name.
        leaves_out = self._few_shot == self.config.get("test_split")
        split, samples = self._worked_examples(leaves_out, rows_of)
        few_shot_config = {key: value for key, value in (config.get("fewshot_config") or {}).items() if key != "split"}
        changes = {
            # lm-eval compares fewshot_split with test_split, so the key decides whether it leaves out the row again.
            "validation_split" if leaves_out == (split is None) else "test_split": "validation",
            "training_split": "train" if self.is_trainable else None,
            "fewshot_split": split,
            "fewshot_config": few_shot_config | ({} if samples is None else {"samples": samples}) or None,
        }
        return {key: value for key, value in (config | changes).items() if value is not None}

    @property
    def _evaluated(self) -> str | None:
        """Return the split that lm-eval evaluates."""
        return self.config.get("test_split") or self.config.get("validation_split")

    @property
    def _few_shot(self) -> str | None:
        """Return the split that the definition names for worked examples."""
        return (self.config.get("fewshot_config") or {}).get("split", self.config.get("fewshot_split"))

    def _worked_examples(
        self, leaves_out: bool, rows_of: Callable[[str], list[dict]]
    ) -> tuple[str | None, list[dict] | None]:
        """Return the split of the worked examples, or the examples themselves. Neither means lm-eval's own choice."""
        if not self.config.get("num_fewshot") or self._few_shot is None:
            return None, None
        if self._few_shot == self._evaluated and leaves_out:
            return "validation", None
        if self._few_shot == self._evaluated and not self.is_trainable:
            raise InputError(
                f"tasks.{self.name}: worked examples come from the evaluated split {self._evaluated}, so that a question may"
                " stand before itself",
                "set fewshot_split to another split",
            )
        is_apart = self.is_trainable and self._few_shot not in (self.config.get("training_split"), self._evaluated)
        if is_apart and not self.is_local:
            return None, rows_of(self._few_shot)
        return "train", None


def load_datasets(name: str, config: dict, data: TaskData) -> tuple[dict[str, Dataset], dict]:
    """Return the rows of a task by split, and their source for manifest.json.

    They come from the user's folder, or from the hub. Raises InputError if they cannot be loaded."""
    return _local_datasets(name, Path(data.local)) if data.local else _hub_datasets(name, config, data.hub)


def _local_datasets(name: str, folder: Path) -> tuple[dict[str, Dataset], dict]:
    """Return the rows in a folder by split, and the sha256 of its files. Raises InputError if rows have different fields."""
    datasets = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        rows = read_rows(path, RowFormat(name=name, fields={}))
        for number, row in enumerate(rows, start=1):
            if differing := row.keys() ^ rows[0].keys():
                raise InputError(
                    f"{path}: rows 1 and {number} differ in having the field {min(differing)!r}",
                    "write the same fields in every row, null where there is no value",
                )
        datasets[split] = _table(rows, str(path))
    return datasets, local_source(folder)


def _table(rows: list[dict], place: str) -> Dataset:
    """Return rows as a table, whose columns have one type each. Raises InputError if a field has several."""
    try:
        return Dataset.from_list(rows)
    # pyarrow raises several kinds of errors for it.
    except Exception as error:
        raise InputError(
            f"{place}: a field has values of different types ({one_line(error)[:200]})",
            "write each field with one type",
        ) from None


def _hub_datasets(name: str, config: dict, hub: str | None) -> tuple[dict[str, Dataset], dict]:
    """Return the data set of a task on the hub by split, and its place with the loaded revision.

    Prints a warning that says how to fix the revision, unless it is fixed."""
    place = hub or _place_of(name, config)
    datasets = hub_dataset(
        place, f"tasks.{name}.local", "a folder with train.jsonl and validation.jsonl in the original fields"
    )
    source = hub_source(place, datasets)
    if not re.fullmatch(COMMIT, place.partition("@")[2]):
        print(
            f"warning: tasks.{name}: the newest revision of {source['hub']} was loaded; to keep it, set tasks.{name}.hub to"
            f" {source['hub']}@{source['revision'] or 'COMMIT'}",
            file=sys.stderr,
        )
    return datasets, source


def _place_of(name: str, config: dict) -> str:
    """Return the place on the hub that a definition names. Raises InputError if it names none, or needs more than a name."""
    path = str(config.get("dataset_path") or "")
    kwargs = config.get("dataset_kwargs") or {}
    remedy = (
        f"set tasks.{name}.local to a folder with train.jsonl and validation.jsonl, or tasks.{name}.hub to ORG/NAME"
    )
    # The newest data sets have no code, so that lm-eval itself drops the first key.
    needed = kwargs.keys() - {"trust_remote_code", "revision"}
    if needed:
        raise InputError(f"tasks.{name}: dataset_kwargs.{min(needed)} is not supported", remedy)
    if path.count("/") != 1 or path.startswith((".", "/")):
        raise InputError(f"tasks.{name}: dataset_path {path!r} is not ORG/NAME on the hub", remedy)
    place = "/".join(filter(None, (path, config.get("dataset_name"))))
    return f"{place}@{kwargs['revision']}" if kwargs.get("revision") else place


def processed_rows(name: str, config: dict, datasets: dict[str, Dataset], split: str) -> list[dict]:
    """Return the rows of a split after the task's process_docs."""
    if split not in datasets:
        raise InputError(f"tasks.{name}: the data set has no split {split}, only {', '.join(datasets)}", "correct hub")
    docs = datasets[split]
    if config.get("process_docs"):
        with reported(name, f"the rows of {split}"):
            docs = with_functions(config["process_docs"])(docs)
    return list(docs)
