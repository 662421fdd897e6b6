"""Prepare the examples of lm-eval's tasks, for training without lm-eval and for an evaluation with it.

lm-eval's own code renders every text (lm_eval_rendering.py). Only the source of the rows changes. In the definition that the
manifest keeps, the splits are called `train` and `validation`, and process_docs has already run.
"""

from importlib.metadata import version

from datasets import disable_progress_bars

from sparseft.errors import InputError
from sparseft.evaluation.lm_eval_definitions import changed, config_of, read_definition, reported_metrics
from sparseft.evaluation.lm_eval_rendering import check_worked_examples, rendered_rows
from sparseft.evaluation.lm_eval_splits import Splits, load_datasets, processed_rows
from sparseft.study.sources import TaskData
from sparseft.tasks.data_source import Examples, choose_rows
from sparseft.tasks.from_lm_eval import (
    BY_LM_EVAL,
    BY_LOG_LIKELIHOODS,
    GENERATE_UNTIL,
    MULTIPLE_CHOICE,
    NO_FILTER,
    task_of,
)
from sparseft.tasks.metrics import F1
from sparseft.tasks.task import SPLITS


def load_lm_eval_examples(name: str, data: TaskData) -> Examples:
    """Return a task of lm-eval under the name `name`, its examples, and where they come from.

    Raises InputError if lm-eval has no such task, if it cannot be trained and compared here, or if its rows do not fit it."""
    disable_progress_bars()
    config, file = read_definition(data.lm_eval, f"tasks.{name}.lm_eval")
    _check_supported(config, name)
    splits = Splits(name, config, bool(data.local))
    origin = splits.origin
    datasets, source = load_datasets(name, config, data)
    docs = {split: processed_rows(name, config, datasets, origin[split]) for split in SPLITS}
    changes = splits.changes(lambda split: processed_rows(name, config, datasets, split))
    # lm-eval's own file is read again for every evaluation. A user's may be gone by then.
    definition = {"name": config.get("task", name), "file": file, "yaml": changes if file else changed(config, changes)}
    task = task_of(name, _manifest_definition(name, definition, data, splits))
    numbered = {
        split: choose_rows(list(enumerate(docs[split], start=1)), name, split, data.numbers[split], data.seed)
        for split in SPLITS
    }
    rows = rendered_rows(task, numbered)
    check_worked_examples(task, rows)
    return Examples(task, rows, source)


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


def _manifest_definition(name: str, definition: dict, data: TaskData, splits: Splits) -> dict:
    """Return what manifest.json keeps of a task, from the part that says how lm-eval evaluates it."""
    config = config_of(definition)
    output_type = config.get("output_type", GENERATE_UNTIL)
    if data.answer and output_type == MULTIPLE_CHOICE:
        raise InputError(f"tasks.{name}.answer: training learns the right choice", "leave answer out")
    filters = [entry["name"] for entry in config.get("filter_list") or []] or [NO_FILTER]
    names = [entry["metric"] for entry in reported_metrics(config)]
    names = [metric if isinstance(metric, str) else metric.__name__ for metric in names]
    metrics = [_named(metric, filter_name, filters) for metric in names for filter_name in filters]
    if len({entry["name"] for entry in metrics}) < len(metrics):
        raise InputError(f"tasks.{name}: a metric or a filter occurs twice", "give each one another name")
    is_by_log_likelihoods = output_type == MULTIPLE_CHOICE and not config.get("process_results")
    has_f1 = is_by_log_likelihoods and F1.name in names
    return definition | {
        "kind": "lm_eval",
        "lm_eval": version("lm-eval"),
        "output_type": output_type,
        "split": splits.origin["validation"],
        "trainable": splits.is_trainable,
        "answer": data.answer,
        "metric": _headline(name, [entry["name"] for entry in metrics], data.metric, has_f1),
        "metrics": metrics,
        "scored_by": BY_LOG_LIKELIHOODS if is_by_log_likelihoods else BY_LM_EVAL,
        "classes": config["doc_to_choice"] if has_f1 else [],
        "num_fewshot": config.get("num_fewshot") or 0,
        "max_new_tokens": _max_new_tokens(name, config) if output_type == GENERATE_UNTIL else 0,
    }


def _named(metric: str, filter_name: str, filters: list[str]) -> dict:
    """Return the names of a metric and of its standard error. Those of the first filter have no suffix."""
    suffix = "" if filter_name == filters[0] else f"_{filter_name}"
    return {
        "name": f"{metric}{suffix}",
        "standard_error": f"{metric}_stderr{suffix}",
        "metric": metric,
        "filter": filter_name,
    }


def _headline(name: str, metrics: list[str], wanted: str | None, has_f1: bool) -> str:
    """Return the name of the headline metric: the one that is wanted, or the first with a value per row."""
    possible = [metric for metric in metrics if not (has_f1 and metric == F1.name)]
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
