"""Prepare the examples of lm-eval's tasks, and define them for an evaluation over the prepared examples.

lm-eval's own code renders every text: its ConfigurableTask with the task's templates, functions and delimiters. What changes is only
where the rows come from. In the definition that is kept, the splits are called `train` and `validation`, and the rows have
passed process_docs already.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.metadata import version
from pathlib import Path

import lm_eval.api.metrics
import lm_eval.utils
from datasets import Dataset, disable_progress_bars
from jinja2 import StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_metric_aggregation, is_higher_better
from lm_eval.api.task import ConfigurableTask

from sparseft.errors import InputError
from sparseft.evaluation.lm_eval_yaml import FUNCTION, Definition, is_function, read_definition, with_functions
from sparseft.storage.hashes import sha256
from sparseft.study.config import TaskData
from sparseft.tasks.data_source import Examples, choose_rows
from sparseft.tasks.from_lm_eval import GENERATE_UNTIL, MULTIPLE_CHOICE, task_of
from sparseft.tasks.hub import hub_dataset, loaded_revision
from sparseft.tasks.metrics import ACC, ACC_NORM, F1
from sparseft.tasks.rows import problem_of, read_rows
from sparseft.tasks.task import SPLITS, Row, RowFormat, Task

# What lm-eval calls the results of a task without filters.
NO_FILTER = "none"
# Keys of a definition that say where rows come from.
_DATA_KEYS = (
    *("dataset_path", "dataset_name", "dataset_kwargs", "process_docs"),
    *("training_split", "validation_split", "test_split", "fewshot_split"),
)
# What else lm-eval passes to the generation of transformers could load code.
_GENERATION_KEYS = frozenset(
    "until do_sample temperature top_p top_k repetition_penalty max_gen_toks max_new_tokens max_tokens".split()
)


class _Sandbox(SandboxedEnvironment):
    """Render templates as lm-eval does, but let none reach Python's internals, and compile each one once.

    A field without a value would become the word None in a prompt, so it is an error."""

    def __init__(self) -> None:
        theirs = lm_eval.utils.env
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_refuse_none)
        self.filters.update(theirs.filters)
        self.from_string = cache(super().from_string)


def _refuse_none(value: object) -> object:
    """Return the value that a template writes. Raises ValueError for None."""
    if value is None:
        raise ValueError("a field of the template has no value")
    return value


@contextmanager
def sandboxed() -> Iterator[None]:
    """Let lm-eval render its templates in a sandbox within a `with` block."""
    theirs = lm_eval.utils.env
    lm_eval.utils.env = _Sandbox()
    try:
        yield
    finally:
        lm_eval.utils.env = theirs


def load_lm_eval_examples(name: str, data: TaskData) -> Examples:
    """Return a task of lm-eval under the name `name`, its examples, and where they come from.

    Raises InputError if lm-eval has no such task, if it cannot be trained and compared here, or if its rows do not fit it."""
    disable_progress_bars()
    read = read_definition(data.lm_eval, f"tasks.{name}.lm_eval")
    _check_supported(read.config, name)
    datasets, source = _local_datasets(name, Path(data.local)) if data.local else _hub_datasets(name, read.config, data)
    parts = _Parts(name, read.config, bool(data.local))
    docs = {split: _processed(name, read.config, datasets, parts.origin[split]) for split in SPLITS}
    config = parts.changed(lambda split: _processed(name, read.config, datasets, split))
    chosen = {
        split: choose_rows(list(enumerate(docs[split], start=1)), name, split, data.numbers[split], data.seed)
        for split in SPLITS
    }
    task = task_of(name, _definition(name, read, config, data, parts))
    return Examples(task, _rendered(task, chosen), source)


def harness_definition(task: Task, rows: dict[str, list[Row]]) -> dict:
    """Return lm-eval's definition of a prepared task over `rows`, for its TaskManager."""
    docs = {split: Dataset.from_list([row["doc"] for row in examples]) for split, examples in rows.items()}
    config = with_functions(task.definition["yaml"])
    # lm-eval cannot compute the f1 of choice 1 if that is never right.
    if task.classes and all(row.get("label") == 0 for row in rows["validation"]):
        config["metric_list"] = [entry for entry in config["metric_list"] if entry["metric"] != F1.name]
    return config | {"task": task.name, "custom_dataset": lambda **_: docs}


def check_rendering(lm_task: ConfigurableTask, task: Task, rows: list[Row]) -> None:
    """Raise InputError if lm-eval renders another text of a row than the one that was prepared, and that training read."""
    for number, (doc, row) in enumerate(zip(lm_task.eval_docs, rows, strict=True), start=1):
        with _reported(task.name, f"validation example {number}"):
            rendered = _row_of(lm_task, doc, task.definition["answer"])
        if any(rendered[key] != row[key] for key in rendered if key != "doc"):
            raise InputError(
                f"{task.name}: lm-eval {version('lm-eval')} gives validation example {number} another text than it was prepared with",
                "prepare the task again with prepare_task.py, and train again",
            )


class _Parts:
    """Say which splits of a data set are the rows of the study, and how lm-eval's definition changes for them.

    The validation rows are those that lm-eval evaluates: its test_split, or else its validation_split."""

    def __init__(self, name: str, config: dict, is_local: bool) -> None:
        self.name = name
        self.config = config
        self.is_local = is_local
        self.evaluated = config.get("test_split") or config.get("validation_split")
        if not self.evaluated and not is_local:
            raise InputError(f"tasks.{name}: the task has neither test_split nor validation_split", "set one of them")
        self.few_shot = (config.get("fewshot_config") or {}).get("split", config.get("fewshot_split"))
        self.is_trainable = is_local or bool(config.get("training_split"))
        other = self.few_shot if self.few_shot not in (None, self.evaluated) else self.evaluated
        trained = config.get("training_split") or other
        # The name of the split that each set of rows is taken from.
        self.origin = dict(zip(SPLITS, SPLITS if is_local else (trained, self.evaluated), strict=True))

    def changed(self, rows_of) -> dict:
        """Return the definition over the splits `train` and `validation`, without what says where rows come from.

        `rows_of` returns the rows of a split of the data set, for worked examples that are no training rows."""
        config = {key: value for key, value in self.config.items() if key not in _DATA_KEYS}
        # lm-eval draws one more worked example, and leaves out the row itself, if both come from one split by its definition.
        leaves_out = self.few_shot == self.config.get("test_split")
        split, samples = self._few_shot_rows(leaves_out, rows_of)
        few_shot_config = {
            key: value for key, value in (config.pop("fewshot_config", None) or {}).items() if key != "split"
        }
        if samples is not None:
            few_shot_config["samples"] = samples
        evaluated_key = "validation_split" if leaves_out == (split is None) else "test_split"
        changes = {evaluated_key: "validation", "fewshot_split": split, "fewshot_config": few_shot_config or None}
        if self.is_trainable:
            changes["training_split"] = "train"
        return {key: value for key, value in (config | changes).items() if value is not None}

    def _few_shot_rows(self, leaves_out: bool, rows_of) -> tuple[str | None, list[dict] | None]:
        """Return the split of the worked examples, or the examples themselves. Neither means lm-eval's own choice.

        Raises InputError if a question would stand with its answer before itself."""
        if not self.config.get("num_fewshot") or self.few_shot is None:
            return None, None
        if self.few_shot == self.evaluated and leaves_out:
            return "validation", None
        if self.few_shot == self.evaluated and not self.is_trainable:
            raise InputError(
                f"tasks.{self.name}: worked examples come from the evaluated split {self.evaluated}, so that a question may"
                " stand before itself",
                "set fewshot_split to another split",
            )
        is_apart = self.is_trainable and self.few_shot not in (self.config.get("training_split"), self.evaluated)
        if is_apart and not self.is_local:
            return None, list(rows_of(self.few_shot))
        return "train", None


def _check_supported(config: dict, name: str) -> None:
    """Raise InputError if a task needs more than a prompt and choices, or a prompt and one generated answer."""
    output_type = config.get("output_type", GENERATE_UNTIL)
    if output_type not in (MULTIPLE_CHOICE, GENERATE_UNTIL):
        raise InputError(
            f"tasks.{name}: output_type {output_type} is not supported",
            f"name a task of {MULTIPLE_CHOICE} or {GENERATE_UNTIL}",
        )
    if config.get("repeats", 1) != 1:
        raise InputError(f"tasks.{name}: repeats {config['repeats']} is not supported", "set it to 1")
    if output_type == MULTIPLE_CHOICE and config.get("filter_list"):
        raise InputError(f"tasks.{name}: choices have no filters", "leave out filter_list")
    unknown = (config.get("generation_kwargs") or {}).keys() - _GENERATION_KEYS
    if unknown:
        raise InputError(
            f"tasks.{name}: generation_kwargs.{min(unknown)} is not supported",
            f"use {', '.join(sorted(_GENERATION_KEYS))}",
        )


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
    return datasets, {"local": {split: sha256(folder / f"{split}.jsonl") for split in SPLITS}}


def _table(rows: list[dict], place: str) -> Dataset:
    """Return rows as a table, whose columns have one type each. Raises InputError if a field has several."""
    try:
        return Dataset.from_list(rows)
    # pyarrow has several errors for it.
    except Exception as error:
        raise InputError(
            f"{place}: a field has values of different types ({' '.join(str(error).split())[:150]})",
            "write each field with one type",
        ) from None


def _hub_datasets(name: str, config: dict, data: TaskData) -> tuple[dict[str, Dataset], dict]:
    """Return the data set of a task on the hub by split, and its place with the loaded revision.

    Prints how to pin the revision if it is not."""
    place = data.hub or _place_of(name, config)
    datasets = hub_dataset(
        place, f"tasks.{name}", "a folder with train.jsonl and validation.jsonl in the original fields"
    )
    path, _, wanted = place.partition("@")
    revision = loaded_revision(datasets)
    if not wanted:
        print(
            f"warning: tasks.{name}: the newest revision of {path} was loaded; to keep it, set tasks.{name}.hub to"
            f" {path}@{revision or 'COMMIT'}",
            file=sys.stderr,
        )
    return datasets, {"hub": path, "revision": revision}


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


def _processed(name: str, config: dict, datasets: dict[str, Dataset], split: str) -> list[dict]:
    """Return the rows of a split after the task's process_docs."""
    if split not in datasets:
        raise InputError(f"tasks.{name}: the data set has no split {split}, only {', '.join(datasets)}", "correct hub")
    docs = datasets[split]
    if config.get("process_docs"):
        with _reported(name, f"the rows of {split}"):
            docs = with_functions(config["process_docs"])(docs)
    return list(docs)


def _definition(name: str, read: Definition, config: dict, data: TaskData, parts: _Parts) -> dict:
    """Return what manifest.json keeps of a task."""
    output_type = config.get("output_type", GENERATE_UNTIL)
    if data.answer and output_type == MULTIPLE_CHOICE:
        raise InputError(f"tasks.{name}.answer: training learns the right choice", "leave answer out")
    kept = [entry for entry in _metric_list(config, output_type) if _is_kept(entry, config, output_type)]
    if not config.get("process_results"):
        config = config | {"metric_list": kept}
    filters = [entry["name"] for entry in config.get("filter_list") or []] or [NO_FILTER]
    metrics = [_named(_metric_name(entry), filter_name, filters) for entry in kept for filter_name in filters]
    by_rows = output_type == MULTIPLE_CHOICE and not config.get("process_results")
    has_f1 = by_rows and F1.name in [entry["name"] for entry in metrics]
    return {
        "kind": "lm_eval",
        "lm_eval": version("lm-eval"),
        "name": config.get("task", name),
        "file": read.file,
        "output_type": output_type,
        "yaml": config,
        "split": parts.origin["validation"],
        "trainable": parts.is_trainable,
        "answer": data.answer,
        "metric": _headline(name, metrics, data.metric, has_f1),
        "metrics": metrics,
        "scored_by": "log-likelihoods" if by_rows else "lm-eval",
        "classes": config["doc_to_choice"] if has_f1 else [],
        "num_fewshot": config.get("num_fewshot") or 0,
        "max_new_tokens": _max_new_tokens(name, config) if output_type == GENERATE_UNTIL else 0,
    }


def _metric_list(config: dict, output_type: str) -> list[dict]:
    """Return the metrics of a definition, or those that lm-eval takes without any."""
    return config.get("metric_list") or [{"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[output_type]]


def _metric_name(entry: dict) -> str:
    """Return the name under which lm-eval reports a metric: that of its function, or its own."""
    metric = entry["metric"]
    return metric[FUNCTION].rpartition(".")[2] if is_function(metric) else str(metric)


def _is_kept(entry: dict, config: dict, output_type: str) -> bool:
    """Return whether an evaluation reports a metric: a mean over the rows of fractions, of which more is better.

    Of other metrics only the f1 of two answers is kept. Metrics of the library `evaluate` would be downloaded code."""
    metric = entry["metric"]
    if entry.get("hf_evaluate") or not (isinstance(metric, str) or is_function(metric)):
        return False
    if config.get("process_results"):
        return isinstance(metric, str) and _is_mean(entry)
    if output_type == MULTIPLE_CHOICE:
        choices = config.get("doc_to_choice")
        has_two_answers = isinstance(choices, list) and len(choices) == 2
        is_f1 = metric == F1.name and entry.get("aggregation", "f1") == "f1" and has_two_answers
        return is_f1 or (metric in (ACC.name, ACC_NORM.name) and _is_mean(entry))
    return (metric == "exact_match" or is_function(metric)) and _is_mean(entry)


def _is_mean(entry: dict) -> bool:
    """Return whether lm-eval takes the mean of a metric over the rows, and more is better."""
    metric = entry["metric"]
    # A function is in no registry.
    is_known = isinstance(metric, str)
    aggregation = entry.get("aggregation")
    if aggregation is None:
        is_mean = is_known and get_metric_aggregation(metric) is lm_eval.api.metrics.mean
    else:
        is_mean = aggregation == "mean"
    higher = entry.get("higher_is_better")
    if higher is None:
        higher = is_known and is_higher_better(metric)
    return is_mean and higher in (True, "true")


def _named(metric: str, filter_name: str, filters: list[str]) -> dict:
    """Return the names of a metric and of its standard error. Those of the first filter have no suffix."""
    suffix = "" if filter_name == filters[0] else f"_{filter_name}"
    return {
        "name": f"{metric}{suffix}",
        "standard_error": f"{metric}_stderr{suffix}",
        "metric": metric,
        "filter": filter_name,
    }


def _headline(name: str, metrics: list[dict], wanted: str | None, has_f1: bool) -> str:
    """Return the name of the headline metric: the one that is wanted, or the first with a value per row."""
    possible = [entry["name"] for entry in metrics if not (has_f1 and entry["name"] == F1.name)]
    if not possible:
        raise InputError(
            f"tasks.{name}: the task has no metric that is a mean of fractions over its rows",
            "name another task, or write a YAML file with acc, acc_norm or exact_match",
        )
    if wanted and wanted not in possible:
        raise InputError(
            f"tasks.{name}.metric {wanted!r} is not one of the task's", f"choose one of {', '.join(possible)}"
        )
    return wanted or possible[0]


def _max_new_tokens(name: str, config: dict) -> int:
    """Return the largest number of tokens of a generated answer. Raises InputError if it would be drawn at random."""
    # The import takes seconds.
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = normalize_gen_kwargs(config.get("generation_kwargs") or {})
    if settings["do_sample"]:
        raise InputError(f"tasks.{name}: the answers are drawn at random", "set generation_kwargs.do_sample to false")
    return settings["max_gen_toks"]


def _rendered(task: Task, chosen: dict[str, list[tuple[int, dict]]]) -> dict[str, list[Row]]:
    """Return the rows of the chosen documents of each split. Raises InputError with the number of one that does not fit."""
    docs = {split: [{"doc": _plain(task.name, doc)} for _, doc in pairs] for split, pairs in chosen.items()}
    with sandboxed(), redirect_stdout(sys.stderr):
        with _reported(task.name, "the first row"):
            lm_task = ConfigurableTask(config=harness_definition(task, docs))
        rows = {}
        for split, pairs in chosen.items():
            rows[split] = []
            for (number, _), part in zip(pairs, docs[split], strict=True):
                with _reported(task.name, f"{split} row {number}"):
                    row = _row_of(lm_task, part["doc"], task.definition["answer"])
                if problem := problem_of(row, task):
                    raise InputError(
                        f"{task.name}, {split} row {number}: {problem}", "correct the row, or leave it out"
                    )
                rows[split].append(row)
    return rows


def _plain(name: str, doc: dict) -> dict:
    """Return a document as its file of rows will hold it. Raises InputError if it holds more than text and numbers."""
    try:
        return json.loads(json.dumps(doc))
    except TypeError as error:
        raise InputError(f"{name}: a row holds more than text and numbers ({error})", "name a task of text") from None


@contextmanager
def _reported(name: str, what: str) -> Iterator[None]:
    """Raise any error of lm-eval within a `with` block as an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    # The templates and functions of a task may raise anything.
    except Exception as error:
        raise InputError(
            f"{name}: lm-eval cannot render {what} ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            "give rows in the original fields of the data set, or correct the templates of the YAML file",
        ) from None


def _row_of(lm_task: ConfigurableTask, doc: dict, answer: str | None) -> Row:
    """Return a document with its texts, as lm-eval renders them without worked examples.

    `answer` is the field or template of a generated answer that training learns; None means the task's target."""
    prefix = lm_task.doc_to_prefix(doc)
    context = lm_task.fewshot_context(doc, num_fewshot=0, gen_prefix=prefix)
    if lm_task.OUTPUT_TYPE == MULTIPLE_CHOICE:
        return {"doc": doc, **_choice_texts(lm_task, doc, context)}
    text = _target(lm_task, doc, answer)
    turn = lm_task.build_qa_turn(
        q=lm_task.doc_to_text(doc), a=text, gen_prefix=prefix, tgt_delim=lm_task.config.target_delimiter, few_delim=""
    )
    description = lm_task.resolve_field(doc, lm_task.config.description) or ""
    whole = description + "".join(message.to_text() for message in turn)
    if not whole.startswith(context):
        raise ValueError("the prompt is not the beginning of the whole text")
    return {"doc": doc, "prompt": context, "answer": whole.removeprefix(context)}


def _choice_texts(lm_task: ConfigurableTask, doc: dict, context: str | list[str]) -> dict:
    """Return the texts of a document with choices."""
    choices = list(lm_task.doc_to_choice(doc))
    instances = lm_task.construct_requests(doc=doc, ctx=context, metadata=(lm_task.config.task, 0, 1))
    requests = [list(instance.args) for instance in instances]
    right = lm_task.doc_to_text(doc) if lm_task.multiple_input else lm_task.doc_to_target(doc)
    if isinstance(right, str) and right in choices:
        right = choices.index(right)
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise ValueError(f"the right choice is {right!r}, and one of {len(choices)} choices is needed")
    prompt, answer = requests[right]
    return {"prompt": prompt, "answer": answer, "requests": requests, "choices": choices, "label": int(right)}


def _target(lm_task: ConfigurableTask, doc: dict, answer: str | None) -> str:
    """Return the text that training learns as a generated answer. Raises InputError if there are several."""
    _refuse_constant(lm_task, answer or lm_task.config.doc_to_target)
    if answer:
        text = lm_task.resolve_field(doc, answer)
        if text is None:
            raise ValueError(f"the answer {answer!r} has no value")
        return str(text)
    target = lm_task.doc_to_target(doc)
    if lm_task.config.doc_to_choice is not None:
        target = lm_task.doc_to_choice(doc)[target]
    if isinstance(target, list):
        name = lm_task.config.task
        raise InputError(
            f"tasks.{name}: a row has several right answers, and training learns one",
            f"set tasks.{name}.answer to a field, or to a template of the text",
        )
    if target is None:
        raise ValueError("the target has no value")
    return str(target)


def _refuse_constant(lm_task: ConfigurableTask, template: object) -> None:
    """Raise InputError if the text of every answer would be the template itself, as with the name of a field that is not there."""
    if isinstance(template, str) and "{" not in template and template not in lm_task.features:
        raise InputError(
            f"tasks.{lm_task.config.task}: {template!r} is neither a field of the rows nor a template",
            f"name one of the fields {', '.join(lm_task.features)}, or write a template with {{{{ }}}}",
        )
