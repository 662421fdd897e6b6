"""Estimate how long jobs take on one machine, one job at a time: as measured here before, or by their sizes.

Snakemake has measured each job in its benchmark, a file of one line. The time of a job with other settings, such as more steps,
is in proportion to the two estimates, and counts as estimated.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.requests import IMPORTS, JobKind, Requests
from sparseft.study.config import Config
from sparseft.study.configfiles import read_sections
from sparseft.study.grid import CONFIGURATION, Run
from sparseft.study.section import parse_section
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
    "mask": ("compute_masks", "compute_one_mask", "prune"),
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
# Where a time comes from.
MEASURED = "measured here before"
ESTIMATED = "estimated"
# The seconds of a job, and where they come from; None if nothing says them yet.
Time = tuple[float, str] | None


def hours_table(config: Config, jobs: Iterable[Job]) -> list[str]:
    """Return the lines of a table of the hours of each stage. The last line is a sentence on all jobs."""
    by_stage: dict[str, list[Time]] = {stage: [] for stage in STAGES}
    known = _Times(config)
    for rule, wildcards in jobs:
        stage = next(stage for stage, words in STAGES.items() if rule.startswith(words))
        by_stage[stage].append(known.of_job(rule, wildcards))
    rows = [
        f"  {stage:10} {_seconds(of_stage) / 3600:>8.2f}  jobs: {len(of_stage):,}, {_source(of_stage)}"
        for stage, of_stage in by_stage.items()
        if of_stage
    ]
    times = [time for of_stage in by_stage.values() for time in of_stage]
    about = f"{duration(_seconds(times))} on one machine, one job at a time"
    sentence = f"{about} ({_source(times)}; see workflow/scripts/estimate.py)"
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
        if "task_folder" in wildcards:
            cell.task = wildcards["task_folder"].removeprefix("/")
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
            # Without an estimate on an appliance, every measured job counts as equal.
            if now is None or then:
                scaled.append((seconds if now is None else seconds * now / then, now == then))
        if scaled:
            seconds, are_equal = zip(*scaled, strict=True)
            return sum(seconds) / len(seconds), MEASURED if all(are_equal) else ESTIMATED
        return None if now is None else (now, ESTIMATED)

    def _measured(self, rule: str, cell: SimpleNamespace, same: tuple | str) -> Iterator[tuple[object, float]]:
        """Yield the measured jobs that are equal but for their settings, and their seconds."""
        is_run = not isinstance(same, str)
        name = f"{rule}/{cell.model}-{cell.task}-*-{cell.mode}-*" if is_run else same
        for file in self._folder.glob(f"{name}.tsv"):
            try:
                yield Run.parse(file.stem) if is_run else cell, float(file.read_text().splitlines()[-1].split()[0])
            except (InputError, ValueError, IndexError):
                continue  # A file that Snakemake has not written, or not to its end.


def _usual_seconds(requests: Requests, rule: str, cell: object) -> float | None:
    """Return the estimate of a job; None if its time is not known."""
    if rule in _OF_APPLIANCE:
        return None
    kind = _KIND_OF.get(rule)
    if kind == "mask" and not get_method(cell.method).uses_examples:
        kind = "weights"
    try:
        return requests.usual_seconds(JobKind.of(kind, cell)) if kind else IMPORTS
    except KeyError:
        return None  # The configuration of the earlier jobs does not describe the model or the training.


def _benchmark(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the path of the benchmark of a job that belongs to no run, in the folder of the benchmarks, without its ending."""
    if "task_folder" in wildcards:
        sparsity = f"_sparsity{wildcards['sparsity']}" if "sparsity" in wildcards else ""
        return f"{rule}/{wildcards['model']}{wildcards['task_folder']}/{wildcards['method']}{sparsity}"
    names = [wildcards[name] for name in ("model", "task", "text", "method") if name in wildcards]
    if "sparsity" in wildcards:
        names.append(f"sparsity{wildcards['sparsity']}")
    return "/".join([rule, "_".join(names)] if names else [rule])
