"""Find and read the task definitions of lm-eval (docs/task_guide.md in its repository). No code of a user's file runs.

lm-eval's own files name Python functions of its package with the tag !function, and they are trusted as the package is.
A user's file, and every file that it includes, is read as plain data. The manifest of a prepared task has the name of
lm-eval's file and what a study changes in it, or the whole content of a user's file. So no manifest has code either.
"""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.api.metrics import mean
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_metric_aggregation, is_higher_better, metric_registry

# This import fills the registries.
from lm_eval.api.task import ConfigurableTask  # noqa: F401
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from sparseft.axes.tasks.lm_eval import GENERATE_UNTIL, MULTIPLE_CHOICE
from sparseft.axes.tasks.metrics import ACC, ACC_NORM, F1
from sparseft.common.errors import InputError, one_line

logging.getLogger("lm_eval").setLevel(logging.ERROR)
# The folder of lm-eval's own definitions.
FOLDER = Path(lm_eval.tasks.__file__).resolve().parent
# Keys with which a definition runs code, or needs other input than text.
_REFUSED = "class unsafe_code custom_dataset use_prompt doc_to_image doc_to_audio".split()
_UNUSED = "tag task_alias task_list metadata should_decontaminate doc_to_decontamination_query".split()
# lm-eval passes every other key to transformers' generation, which could load code.
_GENERATION_KEYS = set(
    "until max_gen_toks max_new_tokens max_tokens do_sample temperature top_p top_k repetition_penalty".split()
)


def read_definition(source: str, place: str) -> tuple[dict, str | None]:
    """Return the definition that `source` names, and its file in lm-eval's folder; None for a user's YAML file.

    `place` is the key of the configuration, for errors. Raises InputError if there is none, if it is a group, or if it
    would run a user's code."""
    if not source.endswith((".yaml", ".yml")):
        entry = _index().get(source)
        if entry is None or entry.kind != Kind.TASK:
            raise InputError(
                f"{place}: lm-eval has no task {source!r} in YAML",
                "give a name of `lm_eval ls subtasks`, which has no groups, or a .yaml file",
            )
        file = entry.yaml_path.relative_to(FOLDER).as_posix()
        return own_config(file), file
    try:
        config = _plain(Path(source))
    # A date may have a thirteenth month, and files may include each other.
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, OSError, RecursionError) as error:
        raise InputError(
            f"{source}: not a plain YAML file of keys and values ({one_line(error)[:200]})",
            "correct the file, and what it includes; only lm-eval's own files may have code",
        ) from None
    # The value of two of these keys is a function, which a user's file cannot have.
    _refuse_keys(config, source, (*_REFUSED, "process_docs", "process_results", "group"))
    for entry in config.get("metric_list") or []:
        if not isinstance(entry, dict) or entry.get("metric") not in metric_registry:
            raise InputError(f"{source}: metric_list: {entry} has no metric of lm-eval", "correct metric_list")
    return {key: value for key, value in config.items() if key not in _UNUSED}, None


def config_of(definition: dict) -> dict:
    """Return lm-eval's configuration of the task that a manifest describes, with lm-eval's functions.

    It has only metrics that an evaluation reports, so that lm-eval loads none as code from a file or from the hub.
    Raises InputError if the manifest names a file outside lm-eval's folder, or a key that could load code."""
    config = changed(own_config(definition["file"]) if definition["file"] else {}, definition["yaml"])
    unknown = (config.get("generation_kwargs") or {}).keys() - _GENERATION_KEYS
    if unknown:
        raise InputError(
            f"tasks.{definition['name']}: generation_kwargs.{min(unknown, key=str)} is not supported",
            f"use {', '.join(sorted(_GENERATION_KEYS))}",
        )
    return config if config.get("process_results") else config | {"metric_list": reported_metrics(config)}


def changed(config: dict, changes: dict) -> dict:
    """Return a definition with changed keys, also those of fewshot_config. None drops a key."""
    few_shot = (config.get("fewshot_config") or {}) | (changes.get("fewshot_config") or {})
    few_shot = {key: value for key, value in few_shot.items() if value is not None}
    config = config | changes | {"fewshot_config": few_shot or None}
    return {key: value for key, value in config.items() if value is not None}


def reported_metrics(config: dict) -> list[dict]:
    """Return the metrics of a definition that an evaluation reports: means of fractions over the rows, where more is
    better.

    Of other metrics only the f1 of two answers is reported. Metrics of the library `evaluate` would be downloaded
    code."""
    output_type = config.get("output_type", GENERATE_UNTIL)
    entries = config.get("metric_list")
    if entries is None:
        entries = [{"metric": metric} for metric in DEFAULT_METRIC_REGISTRY[output_type]]
    return [entry for entry in entries if not entry.get("hf_evaluate") and _is_reported(entry, config, output_type)]


def _is_reported(entry: dict, config: dict, output_type: str) -> bool:
    """Return whether an evaluation reports a metric."""
    metric, choices = entry["metric"], config.get("doc_to_choice")
    if config.get("process_results"):
        is_known = isinstance(metric, str)
    elif output_type != MULTIPLE_CHOICE:
        is_known = metric == "exact_match" or callable(metric)
    elif metric == F1.name:
        return entry.get("aggregation", "f1") == "f1" and isinstance(choices, list) and len(choices) == 2
    else:
        is_known = metric in (ACC.name, ACC_NORM.name)
    return is_known and _is_mean(entry)


def _is_mean(entry: dict) -> bool:
    """Return whether lm-eval takes the mean of a metric over the rows, and more is better. A function is in no
    registry."""
    name = entry["metric"] if isinstance(entry["metric"], str) else None
    aggregation, higher = entry.get("aggregation"), entry.get("higher_is_better")
    if aggregation is None:
        aggregation = "mean" if name and get_metric_aggregation(name) is mean else None
    if higher is None:
        higher = name and is_higher_better(name)
    return aggregation == "mean" and higher in (True, "true")


def _plain(path: Path) -> dict:
    """Return the content of a user's file over that of the files that it includes, read as data."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = config.pop("include", [])
    merged: dict = {}
    for name in names if isinstance(names, list) else [names]:
        merged |= _plain(path.parent / name)
    return merged | config


def own_config(file: str) -> dict:
    """Return the content of a file in lm-eval's folder, with functions. Raises InputError for another file, or for
    unsafe code."""
    path = (FOLDER / file).resolve()
    if not path.is_relative_to(FOLDER):
        raise InputError(f"{file}: no file of lm-eval", "prepare the task again with prepare_task.py")
    # Resolving a function imports its module, which may load more code.
    _refuse_keys(load_yaml(path, resolve_func=False), f"lm-eval's {file}", _REFUSED)
    return {key: value for key, value in load_yaml(path).items() if key not in _UNUSED}


def _refuse_keys(config: dict, place: str, keys: Iterable[str]) -> None:
    """Raise InputError, naming `place`, if a definition sets one of the keys."""
    if unsupported := [key for key in keys if config.get(key)]:
        what = f"{place}: {unsupported[0]} is not supported"
        raise InputError(what, "name a task of one prompt and one answer in text, which runs no code")


@cache
def _index() -> dict[str, Entry]:
    """Return lm-eval's index of its own tasks, groups and tags by name. It takes 8 s to make."""
    return TaskManager().task_index
