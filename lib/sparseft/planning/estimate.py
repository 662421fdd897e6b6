"""Estimate what a study needs before anything runs: its disk space, the memory of its jobs, and its hours.

The bytes of models, masks and adapters are exact but for the headers of their files. The rest depends on the data and
the machine. Of a model only config.json is read, and torch is not imported.
"""

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

from psutil import virtual_memory

from sparseft.errors import InputError
from sparseft.methods import SELF, get_method
from sparseft.modes import get_mode
from sparseft.planning.hours import Speeds, job_seconds
from sparseft.planning.job_kind import EVALUATIONS, RUN_THE_MODEL, JobKind
from sparseft.planning.power import rows_needed
from sparseft.planning.probe import this_machine
from sparseft.planning.requests import ADAM, Requests
from sparseft.planning.sizes import task_lengths
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import read_sections
from sparseft.study.grid import CONFIGURATION, DENSE, NO_FINETUNE, base_folder, fill, mask_folder, training_name
from sparseft.study.section import parse_section

# A job's kind, its wildcards, and its rule; "" if what earlier jobs took does not count.
Job = tuple[str, Mapping[str, str], str]
# A difference of two accuracies, and the share of the answers in which the two models differ: that of
# benchmarks/intervals.py.
DIFFERENCE, DIFFERING = 0.05, 0.2
# The estimate of a job that was not measured may be wrong by this factor.
UNCERTAIN = 2
ESTIMATED = "estimated"
GB = 1e9
# Bytes of the largest GPU that is common: an A100 or H100.
CARD = 80e9
# What needs less memory. The first ones cost least time.
LIGHTER = {
    "cache_weights": False,
    "gradient_checkpointing": True,
    "micro_batch_size": 1,
    "shard_model": True,
    "evaluation_batch_size": 1,
}
# The folders that studies share. The results have their own.
SHARED = ("models", "masks", "pruned")


def report(config: Config) -> str:
    """Return the estimate as text. Raises InputError for a model whose sizes are not known yet."""
    requests, jobs = Requests(config), list(study_jobs(config))
    runs = targets.runs(config)
    kept, _ = disk(requests, jobs)
    lines = [
        "ESTIMATE, from the configuration and the speeds of this machine. GB: 1,000,000,000 bytes.",
        f"runs: {len(runs):,}, of which {sum(run.mode != NO_FINETUNE for run in runs):,} are trained",
        "disk, GB",
        *[f"  {name:16} {size / GB:>10,.2f}" for name, size in kept.items()],
        "memory of a job, GB",
        *memory(requests, jobs),
        *examples(config),
        needs(requests, jobs),
    ]
    return "\n".join(lines)


def study_jobs(config: Config) -> Iterator[Job]:
    """Yield each job of the whole study that reads or runs a model."""
    yield from (("prepare", {"model": model}, "") for model in config.grid.models)
    sampled = [name for name in config.texts_read() if config.texts[name].text == SELF]
    originals = sorted(set(map(config.original, config.grid.models)))
    yield from (("sampling", {"model": model, "text": text}, "") for model in originals for text in sampled)
    passes = {}
    for run in targets.runs(config):
        # One per method for all sparsities, or one per sparsity if it has a pruned base.
        has_base = get_method(run.method).has_pruned_base
        folder = fill((base_folder if has_base else mask_folder)(run.method), run)
        wildcards = {"model": run.model, "task": run.task, "method": run.method}
        passes[folder, run.method] = wildcards | ({"sparsity": str(run.sparsity)} if has_base else {})
    yield from (("mask", wildcards, "") for wildcards in passes.values())
    for run in targets.runs(config):
        kinds = ["merge", "proof", "evaluation", *["selection"] * bool(run.training)]
        if run.mode != NO_FINETUNE:
            kinds += ["evaluation", "reconstruction" if get_mode(run.mode).reconstructs else "training"]
        yield from ((kind, vars(run), "") for kind in kinds)


def examples(config: Config) -> list[str]:
    """Return a line per task with choices or generated answers: its examples, and how many a small difference would
    need."""
    places = {(run.sparsity, run.mode) for run in targets.runs(config) if run.method != DENSE}
    modes = [get_mode(mode) for _, mode in places]
    # The methods are compared by value and loss, and by the divergence if they did not learn the task.
    measures = [2 + (config.divergence_windows > 0 and not mode.learns_task) for mode in modes]
    tests = max(1, math.comb(len(config.grid.methods), 2) * sum(measures))
    needed = rows_needed(DIFFERENCE, math.sqrt(DIFFERING - DIFFERENCE**2), tests)
    lengths = {task: task_lengths(config, task) for task in config.grid.tasks}
    return [
        f"{task}: {own.rows[1]:,} validation examples; a difference of {DIFFERENCE} of two accuracies, in one of"
        f" {tests} comparisons, needs about {needed:,.0f}, and more if seeds vary (docs/statistics.md)"
        for task, own in lengths.items()
        if own.choices or own.max_new_tokens
    ]


def memory(requests: Requests, jobs: Iterable[Job]) -> list[str]:
    """Return a line per model and kind of job, in GB: of the task, method and training that need most, with the
    parts."""
    largest: dict[tuple[str, str], tuple[int, str]] = {}
    for job in dict.fromkeys(map(job_kind, jobs)):
        if job.kind not in RUN_THE_MODEL:
            continue
        device, machine = requests.memory(job)
        on_device, in_machine = sum(device.values()), sum(machine.values())
        total = f"{(on_device + in_machine) / GB:.2f}"
        if requests.config.resources.gpus:
            total = f"{on_device / GB:.2f} on the GPU, {in_machine / GB:.2f} in the machine"
        parts = ", ".join(f"{part} {size / GB:.2f}" for part, size in (device | machine).items() if size)
        cell = " ".join(filter(None, (job.task, job.method, job.training)))
        line = f"  {job.model} {job.kind} {total}: {parts} ({cell})"
        largest[job.model, job.kind] = max(largest.get((job.model, job.kind), (0, "")), (on_device + in_machine, line))
    return [line for _, line in largest.values()]


def needs(requests: Requests, jobs: Iterable[Job]) -> str:
    """Return a sentence on the hours of some jobs, and on what they write if their models are known.

    A line follows for each model and kind of job that needs more memory than there is."""
    jobs = list(jobs)
    try:
        kept, running = disk(requests, jobs)
        lines = memory_advice(requests, jobs)
    except InputError as error:
        return f"no estimate of hours and disk: {error}"
    space = f"{sum(kept.values()) / GB:,.2f} GB, and {running / GB:,.2f} GB per running job"
    return "\n".join([f"{hours(requests, jobs)}; disk: {space}", *lines])


def job_kind(job: Job) -> JobKind:
    """Return what decides the memory and the time of a job. A compilation names no model."""
    kind, wildcards, _ = job
    return JobKind.of(kind, SimpleNamespace(**wildcards)) if "model" in wildcards else JobKind(kind, "")


def disk(requests: Requests, jobs: Iterable[Job]) -> tuple[Counter[str], int]:
    """Return the bytes of the files that jobs leave, by what they are, and what a running one needs in addition."""
    config = requests.config
    numbers = cache(lambda model, *of: requests.subject(model).adapter_numbers(config, *of))
    kept: Counter[str] = Counter()
    largest_model, largest_adapter = 0, 0
    for kind, wildcards, _ in jobs:
        if kind not in ("prepare", "mask", "import", "training", "reconstruction", "merge") or "model" not in wildcards:
            continue
        model = requests.subject(wildcards["model"])
        largest_model = max(largest_model, model.bytes)
        if kind == "prepare":
            kept["models"] += model.bytes
        elif kind == "merge":
            kept["merged models"] += config.keep_merged * model.bytes
        elif kind in ("mask", "import"):
            method = wildcards["method"]
            number = 1 if "sparsity" in wildcards or method == DENSE else len(config.grid.percents(method))
            kept["masks"] += number * (model.prunable_weights // 8)
            kept["pruned"] += get_method(method).has_pruned_base * model.bytes
        else:
            adapter = numbers(model.name, wildcards["task"], training_name(wildcards["training"]))
            largest_adapter = max(largest_adapter, adapter)
            kept["adapters"] += 4 * adapter
    # A merged model or a masked checkpoint, and the saved state of a training beside the one that it replaces.
    return +kept, largest_model + 2 * (ADAM - 4) * largest_adapter


def check_disk(requests: Requests, jobs: Iterable[Job]) -> None:
    """Raise InputError if what jobs write does not fit on the disk. Nothing is known before a model's size is.

    A folder that is a link is on the disk that it links to."""
    try:
        written, running = disk(requests, jobs)
    except InputError:
        return
    by_disk: Counter[Path] = Counter()
    for what, size in (*written.items(), ("running", running)):
        folder = Path(what if what in SHARED else requests.config.results).resolve()
        by_disk[next(path for path in (folder, *folder.parents) if path.is_mount())] += size
    for place, size in by_disk.items():
        free = shutil.disk_usage(place).free
        if size > free:
            what = f"the disk at {place}: {size / GB:,.1f} GB are needed, and {free / GB:,.1f} are free"
            raise InputError(what, f"free some, or let one of {', '.join(SHARED)} be a link to another disk")


def memory_advice(requests: Requests, jobs: Iterable[Job]) -> list[str]:
    """Return a line for each model and kind of job that needs more memory than there is, with one change that helps.

    Without resources.gpu_memory_mb, a GPU has CARD. Without resources.memory_mb, a job may use the memory of this
    machine."""
    resources = requests.config.resources
    limits = {
        "on a GPU": 1e6 * (resources.gpu_memory_mb or 0) or CARD,
        "in the machine": 1e6 * (resources.memory_mb or 0) or virtual_memory().total,
    }
    lines: dict[tuple[str, str], str] = {}
    for job in dict.fromkeys(map(job_kind, jobs)):
        if not job.model or (job.model, job.kind) in lines:
            continue
        missing = [
            f"{size / GB:.0f} GB {where}, which has {limits[where] / GB:.0f}"
            for where, size in zip(limits, requests.bytes_of(job, at_least=True), strict=True)
            if size > limits[where]
        ]
        if missing:
            what = " on ".join(filter(None, (job.kind, job.task)))
            advice = _advice(requests.config, job, limits)
            lines[job.model, job.kind] = f"{job.model}: {what} needs {' and '.join(missing)}; {advice}"
    return list(lines.values())


def _advice(config: Config, job: JobKind, limits: Mapping[str, float]) -> str:
    """Return in words the changes of LIGHTER with which a job fits, and what it needs then."""
    change: dict[str, Any] = {}
    training = config.training_of(job.task, job.training) if job.kind == "training" else None
    for key, value in LIGHTER.items():
        if training and hasattr(training, key) and getattr(training, key) != value:
            change["training"] = change.get("training", {}) | {key: value}
        elif job.kind in ("training", *EVALUATIONS) and getattr(config, key, value) != value:
            change[key] = value
        sections = {"training": config.training.model_copy(update=change.get("training", {}))}
        less = Requests(config.model_copy(update=change | sections)).bytes_of(job, at_least=True)
        if all(size <= limit for size, limit in zip(less, limits.values(), strict=True)):
            sizes = ", ".join(f"{size / GB:.0f} GB {where}" for where, size in zip(limits, less, strict=True) if size)
            return f"set {json.dumps(change)[1:-1].replace(chr(34), '')} ({sizes})"
    return "use a larger one"


def hours(requests: Requests, jobs: Iterable[Job]) -> str:
    """Return a sentence on how long jobs take on one machine, one at a time, and on what this rests.

    A job of a run takes as long as the equal jobs that Snakemake measured in this results folder, in proportion to the
    estimates if the settings have changed since. Without a measurement, its time is the estimate for this machine, and
    is right within UNCERTAIN."""
    config, earlier = requests.config, requests
    speeds, rests = this_machine()
    # A study that was not analysed has no earlier configuration.
    with suppress(InputError):
        sections = read_sections(Path(config.paths.analysis) / CONFIGURATION)
        earlier = Requests(parse_section(Config, sections, "configuration"))
    taken: defaultdict[str, float] = defaultdict(float)
    sources: Counter = Counter()
    for (job, benchmarks), number in Counter((job_kind(job), _benchmarks(job)) for job in jobs).items():
        seconds, source = _seconds(requests, job, speeds), ESTIMATED
        before = _seconds(earlier, job, speeds)
        measured = _mean_seconds(Path(config.paths.benchmarks).glob(benchmarks)) if benchmarks else None
        if measured and (before or not seconds):
            seconds, source = measured * (seconds / before if seconds and before else 1), "measured here before"
        elif not seconds:
            source = "of unknown time"
        taken[source] += number * (seconds or 0) / 3600
        sources[source] += number
    total, doubt = sum(taken.values()), taken[ESTIMATED]
    bounds = (total, total - doubt * (1 - 1 / UNCERTAIN), total + doubt * (UNCERTAIN - 1))
    time, low, high = (f"{60 * each:.0f}" if total < 2 else f"{each:,.1f}" for each in bounds)
    unit = "minutes" if total < 2 else "hours"
    counts = [f"{number:,} jobs {source}" for source, number in sorted(sources.items())]
    if doubt:
        time += f" {unit} ({low} to {high})"
        counts.append(f"from {rests}" + " and a GPU as fast as an A100" * bool(config.resources.gpus))
    else:
        time += f" {unit}"
    return f"about {time} on one machine, one job at a time ({', '.join(counts)})"


def _benchmarks(job: Job) -> str:
    """Return the pattern of the benchmarks of a job and of those that differ only in method, sparsity and seed."""
    _, wildcards, rule = job
    model, task, mode, training = map(wildcards.get, ("model", "task", "mode", "training"))
    return f"{rule}/{model}-{task}-*-{mode}{training}-seed*.tsv" if rule else ""


def _mean_seconds(benchmarks: Iterable[Path]) -> float | None:
    """Return the mean seconds of some benchmarks; None if Snakemake has written none of them to its end."""
    seconds = []
    for file in benchmarks:
        with suppress(ValueError, IndexError):
            seconds.append(float(file.read_text().splitlines()[-1].split()[0]))
    return mean(seconds) if seconds else None


def _seconds(requests: Requests, job: JobKind, speeds: Speeds) -> float | None:
    """Return the estimate of a job; None if its model or the speed of the appliance or engine is not known."""
    on_appliance = ("training", "throughput") if requests.config.training_backend.queue_minutes else ()
    if job.kind in ("engines", *on_appliance):
        return None
    if not job.model:
        return speeds.start
    try:
        return job_seconds(requests.config, job, requests.subject(job.model), speeds)
    except (InputError, KeyError):
        # An earlier configuration need not describe the model or the training.
        return None
