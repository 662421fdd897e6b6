"""Check the values of a definition of lm-eval, so that an error names the key and what it must be."""

import difflib
import re
from collections import Counter
from collections.abc import Callable
from math import inf

from lm_eval.api.registry import filter_registry, metric_registry
from lm_eval.api.samplers import SAMPLER_REGISTRY

# This import fills the registries.
from lm_eval.api.task import ConfigurableTask

from sparseft.errors import InputError, one_line
from sparseft.evaluation.lm_eval_limits import limited_filters
from sparseft.evaluation.lm_eval_yaml import is_function

# An answer on which filters are tried.
_SAMPLE = "A sample: the answer is (B) 42.\n#### 42"


def _is_whole(least: int) -> Callable[[object], bool]:
    """Return a check that a value is a whole number of at least `least`, and no truth value."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_texts(value: object) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text_or_texts(value: object) -> bool:
    """Return whether a value is a text or a list of texts."""
    return isinstance(value, str) or _is_texts(value)


def _is_mappings(value: object) -> bool:
    """Return whether a value is a list of keys with values."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_instance(*kinds: type) -> Callable[[object], bool]:
    """Return a check that a value has one of the types `kinds`."""
    return lambda value: isinstance(value, kinds)


_IS_TEXT = (_is_instance(str), "a text")
_IS_NUMBER = (
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf,
    "a number of at least 0",
)
_IS_TRUTH = (_is_instance(bool), "true or false")
_IS_COUNT = (_is_whole(1), "a whole number of at least 1")
_IS_KEYS = (_is_instance(dict), "keys with values")
_IS_LIST = (_is_mappings, "a list of keys with values")
# For each key, a check of its value and what the value must be. null is always allowed.
_KEYS = {
    "task": _IS_TEXT,
    "output_type": _IS_TEXT,
    "training_split": _IS_TEXT,
    "validation_split": _IS_TEXT,
    "test_split": _IS_TEXT,
    "fewshot_split": _IS_TEXT,
    "target_delimiter": _IS_TEXT,
    "fewshot_delimiter": _IS_TEXT,
    "gen_prefix": _IS_TEXT,
    "dataset_kwargs": _IS_KEYS,
    "num_fewshot": (_is_whole(0), "a whole number of at least 0"),
    "fewshot_config": _IS_KEYS,
    "generation_kwargs": _IS_KEYS,
    "metric_list": _IS_LIST,
    "filter_list": _IS_LIST,
}
_FEWSHOT_KEYS = {
    "split": _IS_TEXT,
    "sampler": (lambda value: value in tuple(SAMPLER_REGISTRY), f"one of {', '.join(SAMPLER_REGISTRY)}"),
    "samples": (lambda value: _is_mappings(value) or is_function(value), "a list of rows"),
}
# lm-eval passes every other key to transformers' generation, which could load code.
_GENERATION_KEYS = {
    "until": (_is_text_or_texts, "a text or a list of texts"),
    "max_gen_toks": _IS_COUNT,
    "max_new_tokens": _IS_COUNT,
    "max_tokens": _IS_COUNT,
    "do_sample": _IS_TRUTH,
    "temperature": _IS_NUMBER,
    "top_p": _IS_NUMBER,
    "top_k": _IS_NUMBER,
    "repetition_penalty": _IS_NUMBER,
}
_METRIC_KEYS = {
    "metric": (lambda value: isinstance(value, str) or is_function(value), "the name of a metric"),
    "regexes_to_ignore": (_is_texts, "a list of regular expressions"),
}
_FILTER_KEYS = {"name": _IS_TEXT, "filter": _IS_LIST}
_STEP_KEYS = {
    "function": (lambda value: isinstance(value, str) or is_function(value), "the name of a filter"),
    "regex_pattern": _IS_TEXT,
    "regexes_to_ignore": (_is_texts, "a list of regular expressions"),
    # Another number would stop an evaluation at an answer with fewer matches.
    "group_select": (lambda value: value in (0, -1) and not isinstance(value, bool), "0 or -1"),
}


def check_values(config: dict, name: str, *, is_own: bool) -> None:
    """Raise InputError if a value of a definition has a wrong type.

    In a definition of the user's (`is_own`), filters and metrics must be lm-eval's. The modules of lm-eval's own definitions
    may register more of them."""
    place = f"tasks.{name}"
    _check(config, _KEYS, place)
    _check(config.get("fewshot_config") or {}, _FEWSHOT_KEYS, f"{place}: fewshot_config")
    _check(config.get("generation_kwargs") or {}, _GENERATION_KEYS, f"{place}: generation_kwargs")
    unknown = (config.get("generation_kwargs") or {}).keys() - _GENERATION_KEYS
    if unknown:
        raise InputError(
            f"{place}: generation_kwargs.{min(unknown, key=str)} is not supported",
            f"use {', '.join(sorted(_GENERATION_KEYS))}",
        )
    for entry in config.get("metric_list") or []:
        _check(entry, _METRIC_KEYS, f"{place}: metric_list", needed=("metric",))
        _check_patterns(entry, f"{place}: metric_list")
        is_listed = not entry.get("hf_evaluate") and not config.get("process_results")
        if is_own and is_listed:
            _check_known("metric", entry["metric"], list(metric_registry), f"{place}: metric_list")
    for entry in config.get("filter_list") or []:
        _check(entry, _FILTER_KEYS, f"{place}: filter_list", needed=("name", "filter"))
        for step in entry["filter"]:
            where = f"{place}: filter_list, filter {entry['name']}"
            _check(step, _STEP_KEYS, where, needed=("function",))
            _check_patterns(step, where)
            if is_own:
                _check_known("filter", step["function"], list(filter_registry), where)
    check_unique([entry["name"] for entry in config.get("filter_list") or []], f"{place}: filter_list", "filter")


def check_metrics(config: dict, name: str) -> None:
    """Raise InputError if lm-eval would load a metric of a manifest's definition as code from a file or from the hub."""
    if config.get("process_results") is not None:
        return
    for entry in config.get("metric_list") or []:
        metric = entry["metric"]
        if entry.get("hf_evaluate") or not (is_function(metric) or metric in metric_registry):
            raise InputError(f"tasks.{name}: the metric {metric!r} is not lm-eval's own", "prepare the task again")


def check_unique(names: list[str], place: str, what: str) -> None:
    """Raise InputError if a name occurs twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"{place}: the {what} {twice[0]!r} occurs twice", "give each one another name, or leave one out"
        )


def check_filters(lm_task: ConfigurableTask, name: str, doc: dict) -> None:
    """Raise InputError if a filter fails on a sample answer to the row `doc`."""
    for ensemble in lm_task._filters:
        answers = [[_SAMPLE]]
        try:
            with limited_filters(name, 1):
                for make in ensemble.filters:
                    answers = [list(part) for part in make().apply(answers, [doc])]
        except InputError:
            raise
        # The filters and functions of a task may raise anything.
        except Exception as error:
            raise InputError(
                f"tasks.{name}: the filter {ensemble.name} fails on a sample answer"
                f" ({type(error).__name__}: {one_line(error)[:200]})",
                "correct the keys of the filter",
            ) from None


def _check(values: dict, keys: dict[str, tuple], place: str, needed: tuple[str, ...] = ()) -> None:
    """Raise InputError if a value does not pass the check of its key, or if a key of `needed` has no value."""
    for key, (passes, what) in keys.items():
        value = values.get(key)
        if value is None and key in needed:
            raise InputError(f"{place}: {key} is missing", f"set it to {what}")
        if value is not None and not passes(value):
            raise InputError(f"{place}: {key} is {one_line(repr(value))[:100]}", f"set it to {what}")


def _check_patterns(values: dict, place: str) -> None:
    """Raise InputError if a regular expression of a filter or of a metric is not one."""
    first = [values["regex_pattern"]] if values.get("regex_pattern") else []
    for pattern in first + (values.get("regexes_to_ignore") or []):
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InputError(f"{place}: {pattern[:100]!r} is no regular expression ({error})", "correct it") from None


def _check_known(kind: str, value: str | dict, known: list[str], place: str) -> None:
    """Raise InputError if lm-eval has no filter or metric of a name. A function is known."""
    if not is_function(value) and value not in known:
        near = difflib.get_close_matches(value, known, 1)
        remedy = f"write {near[0]!r}" if near else f"choose one of {', '.join(sorted(known))}"
        raise InputError(f"{place}: lm-eval has no {kind} {value!r}", remedy)
