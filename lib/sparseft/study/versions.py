"""Return the versions that make a job run again when one of them is raised.

A version is a whole number in the file of a stage, or of a value of an axis. Raise it by hand when results change.
tests/test_golden.py notices a result that changed without its version.
"""

from collections.abc import Container, Mapping
from typing import Any

from sparseft.axes.architectures import ARCHITECTURES
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import BY_NAME, KINDS
from sparseft.study.config import Config


def versions(
    config: Config, stage: int, wildcards: Mapping[str, str], architectures: Container[str], has_probes: bool = False
) -> str:
    """Return the versions that decide the result of a job: that of its stage, and those of the values of the axes that
    it uses. With `has_probes` they are also those of the probes of the study.

    architectures: the names of those that the model may have"""
    values = list[tuple[str, Any]]()
    if "model" in wildcards:
        values += [(value.name, value) for value in ARCHITECTURES if value.name in architectures]
    if name := wildcards.get("method"):
        method = get_method(name)
        values.append((method.pattern.name, method.pattern))
        values += [(value.name, value) for value in method.importances]
    task = wildcards.get("task")
    for name in config.evaluated_tasks(task) if task and has_probes else filter(None, [task]):
        kind = config.task_data(name).task_kind or ""
        values.append((kind, KINDS[kind]) if kind else (name, BY_NAME[name]))
    if name := wildcards.get("mode"):
        values.append((name, get_mode(name)))
    return " ".join([str(stage), *(f"{name}={value.version}" for name, value in values)])
