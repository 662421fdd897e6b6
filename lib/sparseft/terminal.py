"""Write what the terminal shows while a study runs: the metric of each run that ends, and how much time is left."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from sparseft.grid import MANIFEST, Run


class Remaining:
    """Estimate how long the jobs of a plan will still take, from the jobs that have ended.

    The jobs that run at one moment share it equally, and the cost of a job is the sum of its shares. So the costs of all jobs
    add up to the time in which any job ran, however many ran side by side. `planned` is the number of jobs of each rule.
    """

    def __init__(self, planned: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        self._running: dict[Hashable, _Job] = {}
        self._ended: dict[str, list[float]] = defaultdict(list)
        self._now = 0.0
        self._has_failures = False

    @property
    def done(self) -> int:
        """Return the number of jobs that have ended without a failure."""
        return sum(map(len, self._ended.values()))

    def start(self, job: Hashable, rule: str, now: float) -> None:
        """Start to count the time of a job; `now` is in seconds. A job that is tried again starts at 0."""
        self._advance(now)
        self._running[job] = _Job(rule)

    def end(self, job: Hashable, now: float) -> str:
        """Count a job as done; return its rule, or an empty text for a job that never started."""
        self._advance(now)
        if job not in self._running:
            return ""
        ended = self._running.pop(job)
        self._ended[ended.rule].append(ended.cost)
        return ended.rule

    def fail(self, job: Hashable, now: float) -> None:
        """Drop a job that failed, and stop estimating the time: how many jobs will not run because of it is unknown."""
        self._advance(now)
        self._running.pop(job, None)
        self._has_failures = True

    def sentence(self, *, with_time: bool = True) -> str:
        """Return how many jobs are done, and about how long the others will take, if that can be estimated."""
        total = sum(self.planned.values())
        counts = f"{self.done} of {total} jobs done"
        untimed = [rule for rule, count in self.planned.items() if count and not self._ended[rule]]
        # A rule with a single job cannot be timed before that job ends. The sentence names it and gives the others' time.
        is_unknown = self._has_failures or any(self.planned[rule] > 1 for rule in untimed)
        timed = total - sum(self.planned[rule] for rule in untimed)
        if not with_time or is_unknown or self.done >= timed:
            return counts
        exception = f", not counting {' and '.join(untimed)}" if untimed else ""
        return f"{counts}, {duration(self._seconds_left())} left{exception}"

    def _seconds_left(self) -> float:
        """Return the expected cost of the jobs that have not ended, for the rules with a job that has."""
        means = {rule: sum(costs) / len(costs) for rule, costs in self._ended.items() if costs}
        running = Counter(job.rule for job in self._running.values())
        seconds = sum(max(0.0, means[job.rule] - job.cost) for job in self._running.values() if job.rule in means)
        for rule, mean in means.items():
            waiting = self.planned.get(rule, 0) - len(self._ended[rule]) - running[rule]
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
class _Job:
    """Hold a job that runs, and its share of the time so far, in seconds."""

    rule: str
    cost: float = 0.0


def duration(seconds: float) -> str:
    """Return a length of time in words, with as many digits as an estimate deserves."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} minute{'' if minutes == 1 else 's'}"
    return f"about {round(minutes / 60)} hours"


def outcome(run: Run, evaluation: Mapping) -> str:
    """Return the headline metric of a run with its standard error, on one line."""
    name = f"{run.model} {run.task} {run.method} {run.sparsity} % {run.mode} seed {run.seed}"
    return f"{name}: {evaluation['metric']} {evaluation['value']:.3f} ± {evaluation['standard_error']:.3f}"


def replaced_models(planned: Iterable[str]) -> str:
    """Return a sentence on the prepared models that a plan makes again; empty if there are none.

    `planned` are the outputs of the plan that exist already."""
    manifests = [PurePath(path) for path in planned if PurePath(path).match(MANIFEST.format(model="*"))]
    if not manifests:
        return ""
    names = ", ".join(sorted(str(path.parent) for path in manifests))
    return (
        f"the plan makes {names} again, and everything that was made from it; if you changed a model's settings and want to"
        " keep both, give the changed model its own name under models:"
    )
