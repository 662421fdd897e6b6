"""Prepare the examples of lm-eval's tasks, for training without lm-eval and for an evaluation with it.

lm-eval's own code renders every text (lm_eval_rendering.py). Only the source of the rows changes. In the definition that the
manifest keeps, the splits are called `train` and `validation`, and process_docs has already run.
"""

from importlib.metadata import version

import lm_eval.api.metrics
from datasets import disable_progress_bars
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_metric_aggregation, is_higher_better

from sparseft.errors import InputError
from sparseft.evaluation.lm_eval_checks import check_unique, check_values
from sparseft.evaluation.lm_eval_rendering import check_worked_examples, rendered_rows
from sparseft.evaluation.lm_eval_splits import Splits, load_datasets, processed_rows
from sparseft.evaluation.lm_eval_yaml import FUNCTION, Definition, is_function, read_definition
from sparseft.study.config import TaskData
from sparseft.tasks.data_source import Examples, choose_rows
from sparseft.tasks.from_lm_eval import (
    BY_LM_EVAL,
    BY_LOG_LIKELIHOODS,
    GENERATE_UNTIL,
    MULTIPLE_CHOICE,
    NO_FILTER,
    task_of,
)
from sparseft.tasks.metrics import ACC, ACC_NORM, F1
from sparseft.tasks.task import SPLITS


def load_lm_eval_examples(name: str, data: TaskData) -> Examples:
    """Return a task of lm-eval under the name `name`, its examples, and where they come from.

    Raises InputError if lm-eval has no such task, if it cannot be trained and compared here, or if its rows do not fit it."""
    disable_progress_bars()
    definition = read_definition(data.lm_eval, f"tasks.{name}.lm_eval")
    check_values(definition.config, name, is_own=definition.file is None)
    _check_supported(definition.config, name)
    splits = Splits(name, definition.config, bool(data.local))
    origin = splits.origin
    datasets, source = load_datasets(name, definition.config, data)
    docs = {split: processed_rows(name, definition.config, datasets, origin[split]) for split in SPLITS}
    config = splits.rewritten(lambda split: processed_rows(name, definition.config, datasets, split))
    task = task_of(name, _manifest_definition(name, definition, config, data, splits))
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


def _manifest_definition(name: str, definition: Definition, config: dict, data: TaskData, splits: Splits) -> dict:
    """Return what manifest.json keeps of a task."""
    output_type = config.get("output_type", GENERATE_UNTIL)
    if data.answer and output_type == MULTIPLE_CHOICE:
        raise InputError(f"tasks.{name}.answer: training learns the right choice", "leave answer out")
    kept = [entry for entry in _metric_list(config, output_type) if _is_kept(entry, config, output_type)]
    if not config.get("process_results"):
        config = config | {"metric_list": kept}
    filters = [entry["name"] for entry in config.get("filter_list") or []] or [NO_FILTER]
    metrics = [_named(_metric_name(entry), filter_name, filters) for entry in kept for filter_name in filters]
    check_unique([entry["name"] for entry in metrics], f"tasks.{name}: metric_list", "metric")
    is_by_log_likelihoods = output_type == MULTIPLE_CHOICE and not config.get("process_results")
    has_f1 = is_by_log_likelihoods and F1.name in [entry["name"] for entry in metrics]
    return {
        "kind": "lm_eval",
        "lm_eval": version("lm-eval"),
        "name": config.get("task", name),
        "file": definition.file,
        "included": definition.included,
        "output_type": output_type,
        "yaml": config,
        "split": splits.origin["validation"],
        "trainable": splits.is_trainable,
        "answer": data.answer,
        "metric": _headline(name, metrics, data.metric, has_f1),
        "metrics": metrics,
        "scored_by": BY_LOG_LIKELIHOODS if is_by_log_likelihoods else BY_LM_EVAL,
        "classes": config["doc_to_choice"] if has_f1 else [],
        "num_fewshot": config.get("num_fewshot") or 0,
        "max_new_tokens": _max_new_tokens(name, config) if output_type == GENERATE_UNTIL else 0,
    }


def _metric_list(config: dict, output_type: str) -> list[dict]:
    """Return the metrics of a definition, or lm-eval's default ones if it names none."""
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
