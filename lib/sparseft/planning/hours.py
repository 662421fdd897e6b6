"""Estimate how long jobs take on one machine, one job at a time: as measured here before, or by their sizes.

Snakemake has measured each job in its benchmark, a file of one line. The time of a job with other settings, such as more steps,
is in proportion to the two estimates, and counts as estimated.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

from sparseft.errors import InputError
from sparseft.planning.requests import IMPORTS, JobKind, Requests
from sparseft.study.config import Config, parse_section
from sparseft.study.configfiles import read_sections
from sparseft.study.grid import CONFIGURATION, DENSE, Run
from sparseft.study.terminal import duration

# A job's rule and its wildcards.
Job = tuple[str, Mapping[str, str]]
# The stages, and how the names of their rules begin.
STAGES = {
    "prepare": ("prepare",),
    "masks": ("compute", "prune", "import"),
    "train": ("export", "compile", "train", "reconstruct"),
    "merge": ("merge", "compact"),
    "validate": ("validate",),
    "evaluate": ("evaluate",),
    "analyse": ("write", "analyze"),
    "throughput": ("measure", "join"),
}
# The kinds of jobs, and their rules. A job of another rule takes as long as its imports.
KINDS = {
    "prepare": ("prepare_model",),
    "weights": ("compute_masks", "compute_dense_mask", "compute_added_mask"),
    "mask": (
        *("compute_task_masks", "compute_text_masks", "compute_added_task_mask", "compute_added_text_mask"),
        *("prune_on_task", "prune_on_text"),
    ),
    "files": ("import_pruned", "export_checkpoint", "export_task_checkpoint", "merge_adapter", "validate_sparsity"),
    "training": ("train_adapter",),
    "reconstruction": ("reconstruct_adapter",),
    "evaluation": ("evaluate_run", "evaluate_adapter"),
    "selection": ("evaluate_selection",),
    "throughput": ("measure_throughput",),
}
_KIND_OF = {rule: kind for kind, rules in KINDS.items() for rule in rules}
# Rules that wait for an appliance, whose speed nothing says.
_OF_APPLIANCE = ("compile_program", "measure_batch")
# Rules whose benchmarks are in one folder.
_FOLDERS = {"compute": "compute_masks", "prune": "prune"}


# Where a time comes from.
MEASURED = "measured here before"
ESTIMATED = "estimated"
# The seconds of a job, and where they come from; None if nothing says them yet.
Time = tuple[float, str] | None


def hours_table(config: Config, jobs: Iterable[Job]) -> list[str]:
    """Return the lines of a table of the hours of each stage. The last line is a sentence on all jobs."""
    by_stage: dict[str, list[Time]] = {stage: [] for stage in STAGES}
    times = _Times(config)
    for rule, wildcards in jobs:
        stage = next(stage for stage, words in STAGES.items() if rule.startswith(words))
        by_stage[stage].append(times.of_job(rule, wildcards))
    rows = [
        f"  {stage:10} {_seconds(of_stage) / 3600:>8.2f}  jobs: {len(of_stage):,}, {_source(of_stage)}"
        for stage, of_stage in by_stage.items()
        if of_stage
    ]
    every_job = [time for of_stage in by_stage.values() for time in of_stage]
    sentence = (
        f"{duration(_seconds(every_job))} on one machine, one job at a time"
        f" ({_source(every_job)}; see workflow/scripts/estimate.py)"
    )
    return ["time, hours on one machine, one job at a time", *rows, "", sentence]


def _seconds(times: list[Time]) -> float:
    """Return the seconds of all jobs whose time is known."""
    return sum(time[0] for time in times if time)


def _source(times: list[Time]) -> str:
    """Return where the times of some jobs come from, and how many are not known, in words."""
    counts = Counter(time[1] for time in times if time)
    sources = [source if len(counts) == 1 else f"{count:,} {source}" for source, count in sorted(counts.items())]
    unknown = times.count(None)
    return ", ".join(sources + [f"without {unknown:,} whose time is not known yet"] * bool(unknown))


class _Times:
    """Give the time of each job of a study. Equal jobs are computed once."""

    def __init__(self, config: Config) -> None:
        """Read the configuration with which the earlier jobs ran."""
        self._folder = Path(config.paths.benchmarks)
        self._now = self._earlier = Requests(config)
        self._times: dict[tuple, Time] = {}
        try:
            sections = read_sections(Path(config.paths.analysis) / CONFIGURATION)
            self._earlier = Requests(parse_section(Config, sections, "configuration"))
        except InputError:
            pass  # The study has none yet.

    def of_job(self, rule: str, wildcards: Mapping[str, str]) -> Time:
        """Return the time of a job."""
        cell = SimpleNamespace(**wildcards)
        # Of the runs, those of one mode count as equal, whatever their method, sparsity and seed.
        same = (cell.task, cell.mode, cell.training) if "seed" in wildcards else _benchmark(rule, wildcards)
        key = (rule, wildcards.get("model"), same)
        if key not in self._times:
            self._times[key] = self._time(rule, cell, same)
        return self._times[key]

    def _time(self, rule: str, cell: SimpleNamespace, same: tuple | str) -> Time:
        """Return the time of a job: the mean of equal jobs that were measured, or its estimate."""
        now = _usual_seconds(self._now, rule, cell)
        scaled = []
        for measured, seconds in self._measured(rule, cell, same):
            then = _usual_seconds(self._earlier, rule, measured)
            scaled.append((seconds * now / then if now and then else seconds, now == then))
        if scaled:
            are_equal = all(is_equal for _, is_equal in scaled)
            return sum(seconds for seconds, _ in scaled) / len(scaled), MEASURED if are_equal else ESTIMATED
        return None if now is None else (now, ESTIMATED)

    def _measured(self, rule: str, cell: SimpleNamespace, same: tuple | str) -> Iterator[tuple[object, float]]:
        """Yield the measured jobs that are equal but for their settings, and their seconds."""
        measured = [(cell, self._folder / f"{same}.tsv")]
        if not isinstance(same, str):
            runs = [(Run.parse(file.stem), file) for file in (self._folder / rule).glob("*.tsv")]
            axes = (cell.model, cell.task, cell.mode)
            measured = [
                (run, file) for run, file in runs if (run.model, run.task, run.mode) == axes and self._is_known(run)
            ]
        for equal, file in measured:
            try:
                yield equal, float(file.read_text().splitlines()[-1].split()[0])
            except (OSError, ValueError, IndexError):
                continue

    def _is_known(self, run: Run) -> bool:
        """Return whether the configuration of the earlier jobs describes the training of a run."""
        earlier = self._earlier.config
        return run.task in earlier.tasks and run.training in ("", *earlier.training_names)


def _usual_seconds(requests: Requests, rule: str, cell: object) -> float | None:
    """Return the estimate of a job; None if its time is not known."""
    if rule in _OF_APPLIANCE:
        return None
    kind = _KIND_OF.get(rule)
    return requests.usual_seconds(JobKind.of(kind, cell)) if kind else IMPORTS


def _benchmark(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the path of the benchmark of a job that belongs to no run, in the folder of the benchmarks, without its ending."""
    folder = _FOLDERS.get(rule.partition("_")[0], rule)
    if rule == "compute_dense_mask":
        wildcards = {**wildcards, "method": DENSE}
    names = [wildcards[name] for name in ("model", "task", "text", "method") if name in wildcards]
    if "sparsity" in wildcards:
        names.append(f"sparsity{wildcards['sparsity']}")
    return "/".join([folder, "_".join(names)] if names else [folder])
