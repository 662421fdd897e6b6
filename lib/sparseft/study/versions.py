"""Say which versions decide the result of a job: that of its stage, and those of the values of the axes that it uses.

A version is a whole number. Raise it by hand when results change. Then Snakemake makes the jobs of the stage, or of the
value, again. tests/test_golden.py notices a result that changed without its version."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparseft.architectures import ARCHITECTURES
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.study.config import Config
from sparseft.tasks import BY_NAME, KINDS


def of_job(
    config: Config, stage: int, wildcards: Mapping[str, str], architectures: Callable[[str], Iterable[str]]
) -> str:
    """Return the versions of a job, from that of its stage and its wildcards by name.

    `architectures` returns the names of those that a model may have."""
    values: list[tuple[str, Any]] = []
    if name := wildcards.get("model"):
        names = set(architectures(name))
        values += [(value.name, value) for value in ARCHITECTURES if value.name in names]
    if name := wildcards.get("method"):
        method = get_method(name)
        values.append((method.pattern.name, method.pattern))
        values += [(importance.name, importance) for importance in method.importances]
    if name := wildcards.get("task"):
        kind = config.task_data(name).task_kind or ""
        values.append((kind, KINDS[kind]) if kind else (name, BY_NAME[name]))
    if name := wildcards.get("mode"):
        values.append((name, get_mode(name)))
    return " ".join([str(stage), *(f"{name}={value.version}" for name, value in values)])
