"""Prepare the examples of lm-eval's tasks, for training without lm-eval and for an evaluation with it.

lm-eval's own code renders every text (lm_eval_rendering.py). Only the source of the rows changes. In the definition
that the manifest keeps, the splits are called `train` and `validation`, and process_docs has already run.

A task of lm-eval is evaluated on its test_split. If it also has a validation_split, that split is for choices, such as
the one among trainings (selection_rows.py). It is not taken if the few-shot examples come from it, because a question
could then stand before itself.
"""

from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path

from datasets import Dataset

from sparseft.axes.tasks.lm_eval import (
    BY_LM_EVAL,
    BY_LOG_LIKELIHOODS,
    GENERATE_UNTIL,
    MULTIPLE_CHOICE,
    NO_FILTER,
    task_of,
)
from sparseft.axes.tasks.metrics import F1
from sparseft.axes.tasks.task import SPLITS, Row, RowFormat, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.common.section import refuse
from sparseft.data.lm_eval_definitions import changed, config_of, read_definition, reported_metrics
from sparseft.data.lm_eval_rendering import rendered_rows, reported
from sparseft.data.loading import Examples, choose_rows, hub_dataset, hub_source, local_file, split_of
from sparseft.data.rows import read_rows
from sparseft.data.selection_rows import SELECTION, Candidates, shuffled, unused_rows
from sparseft.data.settings import TaskData
from sparseft.storage.hashes import sha256

# Keys of a definition that say where rows come from.
_DATA_KEYS = """dataset_path dataset_name dataset_kwargs process_docs
    training_split validation_split test_split fewshot_split""".split()


def load_lm_eval_examples(name: str, data: TaskData) -> Examples:
    """Return a task of lm-eval under the name `name`, its examples, and where they come from.

    Raises InputError if lm-eval has no such task, if it cannot be trained and compared here, or if its rows do not fit
    it."""
    source = Source(name, data)
    _check_supported(name, source.config, data)
    docs = {split: list(enumerate(source.rows(origin), start=1)) for split, origin in source.origin.items()}
    task = task_of(name, _definition(source))
    chosen = {split: choose_rows(rows, name, split, data.numbers[split], data.seed) for split, rows in docs.items()}
    return Examples(task, rendered_rows(task, chosen), source.described)


def load_lm_eval_candidates(task: Task, data: TaskData, prepared: SplitRows) -> Candidates:
    """Return the rows of a prepared task that may become selection rows. They are rendered as they are taken.

    Raises InputError if they cannot be loaded."""
    source = Source(task.name, data)
    own_file = local_file(data, SELECTION)
    split = SELECTION if own_file else source.for_choices()
    docs = list(enumerate(source.rows(split or source.origin["train"]), start=1))
    if split is None:
        docs = unused_rows(docs, task.name, data)
    # Rows are rendered without few-shot examples, and lm-eval needs a row to know the fields.
    alone, first_row = replace(task, few_shot=0), [(1, prepared["train"][0]["doc"])]

    def rendered(docs: list[tuple[int, dict]]) -> list[Row]:
        # They stand in the place of the validation rows.
        return rendered_rows(alone, {"train": first_row, "validation": docs})["validation"]

    described = {"local": sha256(own_file)} if own_file else source.described
    return Candidates(shuffled(docs, task.name, data), described, split or "train", rendered)


class Source:
    """Load the rows of a task, say which splits a study takes, and change lm-eval's definition `config` for them.

    file          that of the definition in lm-eval's folder; None for a user's
    is_trainable  whether there are training rows
    few_shot      the split of the few-shot examples: the one that the definition names, or else, without training rows,
                  the first that lm-eval finds; None if it takes the training rows
    leaves_out    whether lm-eval draws one more worked example, and leaves out the row itself
    evaluated     the split that lm-eval evaluates: test_split, or else validation_split
    origin        the splits `train` and `validation` by their names in the data set. Without training rows, `train` is
                  the split of the few-shot examples, or else the evaluated one. A folder of the user's has a file for
                  each
    unused        the validation_split of a data set on the hub, if nothing above takes it; None if there is none

    Raises InputError as `read_definition` does."""

    def __init__(self, name: str, data: TaskData) -> None:
        assert data.lm_eval
        self.name, self.data = name, data
        self.config, self.file = read_definition(data.lm_eval, f"tasks.{name}.lm_eval")
        train, test, validation = (self.config.get(f"{kind}_split") for kind in ("training", "test", "validation"))
        self.is_trainable = bool(data.local or train)
        few_shot = self.config.get("fewshot_config") or {}
        named = few_shot.get("split", self.config.get("fewshot_split"))
        takes_first = self.config.get("num_fewshot") and not few_shot.get("samples") and not self.is_trainable
        self.few_shot = named or (test and takes_first and (validation or test)) or None
        self.leaves_out = named == test
        self.evaluated = test or validation
        train = train or self.few_shot or self.evaluated
        names = SPLITS if data.local else (train, self.evaluated)
        self.origin = dict(zip(SPLITS, names, strict=True))
        is_unused = test and validation not in (test, train, self.few_shot) and not data.local
        self.unused = validation if is_unused else None

    def for_choices(self) -> str | None:
        """Return the split that is for choices; None if there is none."""
        return self.unused if self.unused and self.unused in self.datasets else None

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """Return the splits of the data set on the hub. Raises InputError if it cannot be loaded."""
        return hub_dataset(self.place, f"tasks.{self.name}.local")

    @cached_property
    def place(self) -> str:
        """Return the place on the hub. Raises InputError if the definition names none, or needs more than a name."""
        if self.data.hub:
            return self.data.hub
        path = str(self.config.get("dataset_path") or "")
        kwargs = self.config.get("dataset_kwargs") or {}
        # The newest data sets have no code, so that lm-eval itself drops trust_remote_code.
        keys = kwargs.keys() - {"trust_remote_code", "revision"}
        if keys or path.count("/") != 1 or path.startswith((".", "/")):
            what = f"dataset_kwargs.{min(keys)} is not supported" if keys else f"dataset_path {path!r} is not ORG/NAME"
            folder = f"set tasks.{self.name}.local to a folder with train.jsonl and validation.jsonl"
            raise InputError(f"tasks.{self.name}: {what}", f"{folder}, or tasks.{self.name}.hub to ORG/NAME")
        place = "/".join(filter(None, (path, self.config.get("dataset_name"))))
        return "@".join(filter(None, (place, kwargs.get("revision"))))

    @property
    def described(self) -> dict:
        """Return where the rows come from, for manifest.json."""
        if self.data.local:
            return {"local": {split: sha256(Path(self.data.local, f"{split}.jsonl")) for split in SPLITS}}
        return hub_source(self.place, self.datasets)

    def rows(self, split: str | None) -> list[dict]:
        """Return the rows of a split after the task's process_docs. Raises InputError if they cannot be loaded, or if a
        field has several types."""
        if self.data.local:
            file = Path(self.data.local, f"{split}.jsonl")
            rows = read_rows(file, RowFormat(name=self.name, fields={}))
            # A missing field is None. `from_list` would drop the fields that the first row does not have.
            fields = dict.fromkeys(chain(*rows))
            with reported(self.name, f"the rows of {file}"):
                dataset = Dataset.from_list([{field: row.get(field) for field in fields} for row in rows])
        else:
            dataset = split_of(self.datasets, split, self.place)
        if not self.config.get("process_docs"):
            return list(dataset)
        with reported(self.name, f"the rows of {split}"):
            return list(self.config["process_docs"](dataset))

    def changes(self) -> dict:
        """Return the keys that make the definition one over the splits `train` and `validation`; None drops a key.

        Raises InputError if a question would stand with its answer before itself."""
        few_shot, is_evaluated = self.few_shot, self.few_shot == self.evaluated
        split = samples = None
        if self.config.get("num_fewshot") and few_shot is not None:
            if is_evaluated and self.leaves_out:
                split = "validation"
            elif is_evaluated and not self.is_trainable:
                raise InputError(
                    f"tasks.{self.name}: few-shot examples come from the evaluated split {few_shot}, so that a"
                    " question may stand before itself",
                    "set fewshot_split to another split",
                )
            elif self.data.local or is_evaluated or few_shot == self.origin["train"]:
                split = "train"
            else:
                samples = self.rows(few_shot)
        return {
            **dict.fromkeys(_DATA_KEYS),
            # lm-eval compares fewshot_split with test_split, so the key decides whether it leaves out the row again.
            "validation_split" if self.leaves_out == (split is None) else "test_split": "validation",
            "training_split": "train" if self.is_trainable else None,
            "fewshot_split": split,
            "fewshot_config": {"split": None} | ({} if samples is None else {"samples": samples}),
        }


def _check_supported(name: str, config: dict, data: TaskData) -> None:
    """Raise InputError if a task needs more than a prompt and choices, or a prompt and one generated answer."""
    output_type, repeats = config.get("output_type", GENERATE_UNTIL), config.get("repeats", 1)
    has_choices = output_type == MULTIPLE_CHOICE
    unsupported = {
        f"output_type {output_type}": output_type not in (MULTIPLE_CHOICE, GENERATE_UNTIL),
        f"repeats {repeats}": repeats != 1,
        "filter_list of a task with choices": has_choices and config.get("filter_list"),
        "answer of a task with choices": has_choices and data.answer,
        "generation_kwargs.do_sample": output_type == GENERATE_UNTIL and _generation(config)["do_sample"],
    }
    remedy = f"leave it out, or name a task of {MULTIPLE_CHOICE} or {GENERATE_UNTIL}"
    refuse({f"tasks.{name}: {what} is not supported; {remedy}": fault for what, fault in unsupported.items()})


def _generation(config: dict) -> dict:
    """Return the settings with which a definition generates answers, with lm-eval's defaults."""
    # The import takes seconds.
    from lm_eval.models.utils import normalize_gen_kwargs

    return normalize_gen_kwargs(config.get("generation_kwargs") or {})


def _definition(source: Source) -> dict:
    """Return what manifest.json keeps of a task."""
    name, changes = source.name, source.changes()
    # lm-eval's own file is read again for every evaluation. A user's may be gone by then.
    yaml = changes if source.file else changed(source.config, changes)
    definition = {"name": source.config.get("task", name), "file": source.file, "yaml": yaml}
    config = config_of(definition)
    output_type = config.get("output_type", GENERATE_UNTIL)
    filters = [entry["name"] for entry in config.get("filter_list") or []] or [NO_FILTER]
    # A metric is a name or a function.
    names = [getattr(entry["metric"], "__name__", entry["metric"]) for entry in reported_metrics(config)]
    metrics = []
    for metric, filter_name in product(names, filters):
        # The names of the first filter have no suffix.
        suffix = "" if filter_name == filters[0] else f"_{filter_name}"
        named = {"name": f"{metric}{suffix}", "standard_error": f"{metric}_stderr{suffix}"}
        metrics.append({**named, "metric": metric, "filter": filter_name})
    if len({entry["name"] for entry in metrics}) < len(metrics):
        raise InputError(f"tasks.{name}: a metric or a filter occurs twice", "give each one another name")
    is_by_log_likelihoods = output_type == MULTIPLE_CHOICE and not config.get("process_results")
    has_f1 = is_by_log_likelihoods and F1.name in names
    return definition | {
        "kind": "lm_eval",
        "lm_eval": version("lm-eval"),
        "output_type": output_type,
        "split": source.origin["validation"],
        "trainable": source.is_trainable,
        "answer": source.data.answer,
        "metric": _headline(name, [entry["name"] for entry in metrics], source.data.metric, has_f1),
        "metrics": metrics,
        "scored_by": BY_LOG_LIKELIHOODS if is_by_log_likelihoods else BY_LM_EVAL,
        "classes": config["doc_to_choice"] if has_f1 else [],
        "num_fewshot": config.get("num_fewshot") or 0,
        "max_new_tokens": _generation(config)["max_gen_toks"] if output_type == GENERATE_UNTIL else 0,
    }


def _headline(name: str, metrics: list[str], wanted: str | None, has_f1: bool) -> str:
    """Return the name of the headline metric: the one that is wanted, or the first with a value per row."""
    possible = [metric for metric in metrics if not (has_f1 and metric == F1.name)]
    if not possible or wanted not in (None, *possible):
        known = ", ".join(possible) or "none"
        what = f"tasks.{name}.metric is {wanted}, and the task's means of fractions over its rows are: {known}"
        raise InputError(what, "choose one of them, or name a task with acc, acc_norm or exact_match")
    return wanted or possible[0]
