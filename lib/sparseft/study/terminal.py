"""What the terminal says while a study runs: the accuracy of each run that ends, and how long the rest will take."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from sparseft.study.grid import MANIFEST, Run


class Remaining:
    """How long the jobs of a plan will still take, from the jobs that have ended.

    Every moment is shared equally by the jobs that run at it, and the cost of a job is the sum of its shares. So the costs of
    all jobs add up to the time that has passed, however many ran side by side. `planned` is the number of jobs of each kind. A kind
    is a rule, or a rule with the model and the task of its jobs: a large model's take a hundred times as long as a small one's.
    """

    def __init__(self, planned: Mapping[str, int]) -> None:
        self.planned = dict(planned)
        self._running: dict[Hashable, _Job] = {}
        self._ended: dict[str, list[float]] = defaultdict(list)
        self._now = 0.0
        self._has_failures = False

    @property
    def done(self) -> int:
        """Return the number of jobs that have ended well."""
        return sum(map(len, self._ended.values()))

    def start(self, job: Hashable, kind: str, now: float) -> None:
        """Count a job from `now` on, in seconds. A job that is tried again starts anew."""
        self._advance(now)
        self._running[job] = _Job(kind)

    def end(self, job: Hashable, now: float) -> str:
        """Count a job as done; return its rule, or an empty text for a job that never started."""
        self._advance(now)
        if job not in self._running:
            return ""
        ended = self._running.pop(job)
        self._ended[ended.kind].append(ended.cost)
        return rule_of(ended.kind)

    def fail(self, job: Hashable, now: float) -> None:
        """Drop a job that failed. Which jobs will not run because of it is unknown, so that no time is estimated any more."""
        self._advance(now)
        self._running.pop(job, None)
        self._has_failures = True

    def sentence(self, *, with_time: bool = True) -> str:
        """Return how many jobs are done, and about how long the others will take if the ended ones tell."""
        total = sum(self.planned.values())
        said = f"{self.done} of {total} jobs done"
        untimed = [kind for kind, count in self.planned.items() if count and not self._ended[kind]]
        of_rule: Counter[str] = Counter()
        for kind, count in self.planned.items():
            of_rule[rule_of(kind)] += count
        # A rule of a single job has no time before it has ended: it is named, and the time is that of the others.
        is_unknown = self._has_failures or any(of_rule[rule_of(kind)] > 1 for kind in untimed)
        timed = total - sum(self.planned[kind] for kind in untimed)
        if not with_time or is_unknown or self.done >= timed:
            return said
        without = f", not counting {' and '.join(map(rule_of, untimed))}" if untimed else ""
        return f"{said}, {duration(self._seconds_left())} left{without}"

    def _seconds_left(self) -> float:
        """Return the expected cost of all jobs that have not ended, of the kinds of which one has."""
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
class _Job:
    """A job that runs, and its share of the time so far, in seconds."""

    kind: str
    cost: float = 0.0


def kind_of(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the kind of a job: its rule, with its model and its task where it has them."""
    return " ".join([rule, *(wildcards[axis] for axis in ("model", "task") if axis in wildcards)])


def rule_of(kind: str) -> str:
    """Return the rule of a kind."""
    return kind.partition(" ")[0]


def duration(seconds: float) -> str:
    """Return a length of time in words, with as many digits as an estimate deserves."""
    if seconds < 60:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} minute{'s' * (minutes > 1)}"
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
