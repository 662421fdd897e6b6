"""Give Snakemake the params and the resources of the jobs that run a stage.

A job runs again if its settings, a version or the content of the user's own files changes. A version is a whole number
in the file of a stage, or of a value of an axis. Raise it by hand when results change. tests/test_golden.py notices a
result that changed without its version.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparseft.axes.architectures import ARCHITECTURES
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import BY_NAME, KINDS
from sparseft.common.section import flags
from sparseft.storage.known_hashes import KnownHashes
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job
from sparseft.study.planning.requests import Requests
from sparseft.study.planning.sizes import architectures


def with_task(wildcards: Mapping[str, str]) -> SimpleNamespace:
    """Return the wildcards of a job by name. The folder of its masks says its task."""
    values = dict(wildcards.items())
    return SimpleNamespace(**{"task": values.get("task_folder", "").removeprefix("/"), **values})


def files(wildcards: object, input: Any, output: Any) -> str:
    """Return the flags with the named files of a job. --*_dir gets their folder, and a manifest stands for its own."""
    named: dict[str, object] = {}
    for name, paths in (*input.items(), *output.items()):
        listed = [Path(path) for path in ([paths] if isinstance(paths, str) else paths)]
        if name.endswith("_dir") and listed and listed[0].suffix:
            named[name] = listed[0].parent
        else:
            named[name] = [path.parent if path.name == "manifest.json" else path for path in listed]
    return flags(**named)


class Jobs:
    """Describe the jobs of one study."""

    def __init__(self, config: Config, hashes: KnownHashes, requests: Requests) -> None:
        """`hashes` has the content of the user's own files, and `requests` what jobs need."""
        self.config, self.hashes, self.requests = config, hashes, requests
        self.architectures_of = cache(partial(architectures, config))

    def running(
        self,
        name: str,
        sources: Callable | None = None,
        effort: Callable[[int], dict] | None = None,
        command: object = "python",
        **options: object,
    ) -> dict[str, Any]:
        """Return the params of a job that runs the stage `name`.

        sources: the input function of the user's own files
        effort: threads -> what the stage's `effort` takes in place of the options
        command: what starts the script
        options: what the `settings` and the `effort` of the stage take

        Snakemake does not compare params that are functions of the files, such as those that change no result."""
        stage = import_module(f"sparseft.stages.{name}")

        def flags_of(function: str, wildcards: Any, given: Mapping[str, object]) -> str:
            describe: Callable[..., dict] = getattr(stage, function, lambda *_, **__: {})
            return flags(**describe(self.config, with_task(wildcards), **given))

        return {
            "script": f"{name}.py",
            "command": command,
            "job": lambda wildcards: Job.of(name, {**options, **vars(with_task(wildcards))}),
            "version": lambda wildcards: self.versions(stage.VERSION, with_task(wildcards), "has_probes" in options),
            "settings": lambda wildcards: flags_of("settings", wildcards, options),
            "effort": lambda wildcards, input, threads: flags_of(
                "effort", wildcards, effort(threads) if effort else options
            ),
            # With exit code 1 a stage says that it did its work and that the check failed. The job succeeds.
            "answer": "|| [ $? -eq 1 ]" if stage.run.__annotations__["return"] is int else "",
            **({"content": lambda wildcards: self.hashes.joint(sources(wildcards))} if sources else {}),
        }

    def requested(self, job_of: Callable[[str, Any], Job]) -> dict[str, Callable | int]:
        """Return the MB, minutes and GPUs that the jobs of a rule request. `job_of` returns the job of a rule."""
        requests = self.requests
        return {
            "mem_mb": lambda wildcards, attempt, rulename: requests.of(job_of(rulename, wildcards), attempt)[0],
            "runtime": lambda wildcards, attempt, rulename: requests.of(job_of(rulename, wildcards), attempt)[1],
            "gpu": lambda wildcards, rulename: requests.gpus(job_of(rulename, wildcards)),
            # Otherwise Slurm may take the GPUs from several machines.
            "nodes": 1,
        }

    def versions(self, stage: int, wildcards: SimpleNamespace, has_probes: bool = False) -> str:
        """Return the versions that decide the result of a job: that of its stage, and those of the values of the axes
        that it uses. With `has_probes` they are also those of the probes of the study."""
        names, values = vars(wildcards), list[tuple[str, Any]]()
        if model := names.get("model"):
            known = set(self.architectures_of(model))
            values += [(value.name, value) for value in ARCHITECTURES if value.name in known]
        if name := names.get("method"):
            method = get_method(name)
            values.append((method.pattern.name, method.pattern))
            values += [(value.name, value) for value in method.importances]
        task = names.get("task")
        for name in self.config.evaluated_tasks(task) if task and has_probes else filter(None, [task]):
            kind = self.config.task_data(name).task_kind or ""
            values.append((kind, KINDS[kind]) if kind else (name, BY_NAME[name]))
        if name := names.get("mode"):
            values.append((name, get_mode(name)))
        return " ".join([str(stage), *(f"{name}={value.version}" for name, value in values)])
