"""Say in the terminal what a study does: the metric of each run that ends, the time that is left, and the findings.

The workflow reports its events here. Nothing here imports Snakemake.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.grid import FINDINGS, REPORT, RUN_ID, ResultPaths, Run, fill
from sparseft.study.targets import check_settings, check_target, no_rule

STAGES = ("masks", "train", "validate", "evaluate", "analyze", "throughput")
# The rule that ends a run, and after which the run has a result.
EVALUATION = "evaluate_run"
# Seconds between two lines on the time that is left, if no run ends.
INTERVAL = 60
# Lines of Snakemake that are never shown.
HIDDEN_LINES = ("Select jobs to execute", "Removing temporary output", "Would remove temporary output")
# Snakemake's advice to skip what a changed setting makes again.
ADVICE = ("Some jobs were triggered by provenance information", "Rules with provenance triggered jobs")
# Inputs that are shown of a failed job, because the analysis has thousands.
SHOWN_INPUTS = 10


class Remaining:
    """Estimate how long the jobs of a plan will still take, from the jobs that have ended.

    The jobs that run at a moment share it equally, and the cost of a job is the sum of its shares. So the costs of all jobs
    add up to the time that has passed, however many ran at the same time. `planned` is the number of jobs per kind. A kind is
    a rule, or a rule with the model and the task of its jobs, because a job of a large model can take a hundred times as long.
    """

    def __init__(self, planned: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        self._running: dict[Hashable, _RunningJob] = {}
        self._ended: dict[str, list[float]] = defaultdict(list)
        self._now = 0.0
        self._has_failures = False

    @property
    def done(self) -> int:
        """Return the number of jobs that have succeeded."""
        return sum(map(len, self._ended.values()))

    def start(self, job: Hashable, kind: str, now: float) -> None:
        """Count a job from `now` on, in seconds. A job that is tried again starts anew."""
        self._advance(now)
        self._running[job] = _RunningJob(kind)

    def end(self, job: Hashable, now: float) -> str:
        """Count a job as done, and return its rule; empty if the job never started."""
        self._advance(now)
        if job not in self._running:
            return ""
        ended = self._running.pop(job)
        self._ended[ended.kind].append(ended.cost)
        return rule_of(ended.kind)

    def fail(self, job: Hashable, now: float) -> None:
        """Drop a failed job. It is unknown which jobs will not run because of it, so no time is estimated from now on."""
        self._advance(now)
        self._running.pop(job, None)
        self._has_failures = True

    def sentence(self, *, with_time: bool = True) -> str:
        """Return how many jobs are done, and about how long the others will take if this can be estimated."""
        total = sum(self.planned.values())
        counts = f"{self.done} of {total} jobs done"
        untimed = [kind for kind, count in self.planned.items() if count and not self._ended[kind]]
        timed = total - sum(self.planned[kind] for kind in untimed)
        if not with_time or self._is_unknown(untimed) or self.done >= timed:
            return counts
        exception = f", not counting {' and '.join(map(rule_of, untimed))}" if untimed else ""
        return f"{counts}, {duration(self._seconds_left())} left{exception}"

    def _is_unknown(self, untimed: Iterable[str]) -> bool:
        """Return whether no time can be estimated, because a job failed or a kind that has had no job yet is a large part.

        A rule of a single job is no large part. It has no time before it ends, so the sentence names it instead."""
        jobs_of_rule: Counter[str] = Counter()
        for kind, count in self.planned.items():
            jobs_of_rule[rule_of(kind)] += count
        return self._has_failures or any(jobs_of_rule[rule_of(kind)] > 1 for kind in untimed)

    def _seconds_left(self) -> float:
        """Return the expected cost of the jobs that have not ended, of the kinds of which a job has ended."""
        means = {kind: sum(costs) / len(costs) for kind, costs in self._ended.items() if costs}
        running = Counter(job.kind for job in self._running.values())
        seconds = sum(max(0.0, means[job.kind] - job.cost) for job in self._running.values() if job.kind in means)
        for kind, mean in means.items():
            waiting = self.planned.get(kind, 0) - len(self._ended[kind]) - running[kind]
            seconds += mean * max(0, waiting)
        return seconds

    def _advance(self, now: float) -> None:
        """Share the time since the last event among the jobs that ran."""
        if self._running:
            share = (now - self._now) / len(self._running)
            for job in self._running.values():
                job.cost += share
        self._now = now


@dataclass
class _RunningJob:
    """Hold the kind of a job that runs, and its share of the time so far, in seconds."""

    kind: str
    cost: float = 0.0


class JobProgress:
    """Turn the events of a workflow into lines for the terminal.

    `planned` has the rule and the wildcards of every job. `with_time` is False if jobs wait in a queue, because the time in
    the queue is unknown."""

    def __init__(
        self, planned: Iterable[tuple[str, Mapping[str, str]]], paths: ResultPaths, now: float, *, with_time: bool
    ) -> None:
        self._paths = paths
        self._remaining = Remaining(Counter(kind_of(rule, wildcards) for rule, wildcards in planned))
        self._wildcards: dict[Hashable, Mapping[str, str]] = {}
        self._last_line = now
        self._with_time = with_time

    def start(self, job: Hashable, rule: str, wildcards: Mapping[str, str], now: float) -> None:
        """Count a job from `now` on, in seconds."""
        self._remaining.start(job, kind_of(rule, wildcards), now)
        self._wildcards[job] = wildcards

    def end(self, job: Hashable, now: float) -> list[str]:
        """Count a job as done. Return the lines to print: the result of a run, and the time that is left."""
        is_run = self._remaining.end(job, now) == EVALUATION
        if not is_run and now - self._last_line <= INTERVAL:
            return []
        self._last_line = now
        results = [result_line(Run.parse(RUN_ID.format(**self._wildcards[job])), self._paths)] if is_run else []
        return [*results, self._remaining.sentence(with_time=self._with_time)]

    def fail(self, job: Hashable, now: float) -> None:
        """Drop a failed job."""
        self._remaining.fail(job, now)


def kind_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the kind of a job: its rule, with its model and its task if it has them."""
    return " ".join([rule, *(wildcards[axis] for axis in ("model", "task") if axis in wildcards)])


def rule_of(kind: str) -> str:
    """Return the rule of a kind."""
    return kind.partition(" ")[0]


def duration(seconds: float) -> str:
    """Return a length of time in words, with as many digits as an estimate deserves."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes == 1:
        return "about 1 minute"
    if minutes < 100:
        return f"about {minutes} minutes"
    return f"about {minutes / 60:.2g} hours" if minutes < 600 else f"about {minutes / 60:,.0f} hours"


def result_line(run: Run, paths: ResultPaths) -> str:
    """Return the line on a run that has been evaluated. A record that cannot be read is reported, and stops nothing."""
    try:
        return outcome(run, read_json(f"{fill(paths.run, run)}/evaluation.json"))
    except (InputError, OSError, KeyError) as error:
        return f"note: {run.id}: its evaluation.json cannot be read: {error}"


def outcome(run: Run, evaluation: Mapping) -> str:
    """Return the headline metric of a run with its standard error, and the overlap if there is one, on one line."""
    mode = f"{run.mode} {run.training}".rstrip()
    name = f"{run.model} {run.task} {run.method} {run.sparsity} % {mode} seed {run.seed}"
    overlap = evaluation.get("overlap")
    seen = f", {100 * overlap:.3g} % of it also occurs in training or calibration data" if overlap else ""
    return f"{name}: {evaluation['metric']} {evaluation['value']:.3f} ± {evaluation['standard_error']:.3f}{seen}"


def findings(folder: Path) -> str:
    """Return the findings of a study, and where its results page is."""
    lines = []
    if (folder / FINDINGS).exists():
        lines.append((folder / FINDINGS).read_text(encoding="utf-8").rstrip())
    page = folder / REPORT
    lines.append(f"The results page: {page}" if page.exists() else f"Tables, figures and pages: {folder}/")
    return "\n".join(lines)


def shortened(line: str) -> str | None:
    """Return a line of Snakemake without a hint that does not apply here; None if the line is not shown."""
    if line.startswith(HIDDEN_LINES):
        return None
    return line.replace("(check individual jobs above for details)", "(`--quiet host` shows each job)")


def first_inputs(inputs: list[str]) -> list[str]:
    """Return the first inputs of a failed job, and how many more it has."""
    hidden = len(inputs) - SHOWN_INPUTS
    return inputs if hidden <= 0 else [*inputs[:SHOWN_INPUTS], f"and {hidden} more"]


def check_targets(
    config: Config,
    targets: Iterable[str],
    is_rule: Callable[[str], bool],
    is_made: Callable[[str], bool],
    outputs: Iterable[str],
) -> None:
    """Raise InputError if the settings do not allow a target, or if it does not exist and no rule makes it.

    `is_rule` says whether a name is that of a rule, and `is_made` whether a rule makes a path. `outputs` are the paths of the
    rules' outputs, with their wildcards."""
    for target in sorted(targets):
        path = target if os.path.isabs(target) else os.path.relpath(target)
        # Existing files too, because a job deletes its outputs before it reads its input.
        check_settings(config, path)
        if is_rule(target) or os.path.exists(path):
            continue
        check_target(config, path)
        if not is_made(path):
            raise no_rule(path, _similar_targets(path, is_made, outputs), STAGES)


def _similar_targets(path: str, is_made: Callable[[str], bool], outputs: Iterable[str]) -> list[str]:
    """Return what the user may have meant: the stages, or the files that rules make in the folder of `path`."""
    folder = os.path.dirname(path)
    if not folder:
        return list(STAGES)
    names = {os.path.basename(output) for output in outputs}
    return [file for file in (f"{folder}/{name}" for name in names) if is_made(file)]
