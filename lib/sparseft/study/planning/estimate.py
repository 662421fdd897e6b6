"""Estimate what a study needs before anything runs: its disk space, the memory of its jobs, and its hours.

    estimate.py --configfile config/sweep.yaml

Reads the configuration as Snakemake does, laid over config/config.yaml, and prints the estimate. The models need not be
on the disk.

The bytes of models, masks and adapters are exact but for the headers of their files. The rest depends on the data and
the machine. Of a model only config.json is read, and torch is not imported.
"""

import math
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import mean

from psutil import virtual_memory

from sparseft.axes.grid import NO_FINETUNE, base_folder, fill, mask_folder
from sparseft.axes.methods import SELF, get_method
from sparseft.axes.modes import get_mode
from sparseft.common.errors import InputError
from sparseft.data.selection_rows import SELECTION
from sparseft.models.language_model.gpus import smallest_gpu
from sparseft.storage.reading import read_json
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import read_configuration
from sparseft.study.planning.needs import Job
from sparseft.study.planning.power import rows_needed
from sparseft.study.planning.probe import this_machine
from sparseft.study.planning.requests import Requests, needs_of, seconds
from sparseft.study.planning.sizes import task_lengths

# A job and its rule; "" if what earlier jobs took does not count.
Planned = tuple[Job, str]
# The record of a run that says how much a job had to do, by its stage. Other jobs have the same to do in every study.
RECORDS = {"train": "train.json", "reconstruct": "train.json", "evaluate": "evaluation.json"}
# A difference of two accuracies, and the share of the answers in which the two models differ: that of
# benchmarks/intervals.py.
DETECTABLE, DISAGREEING = 0.05, 0.2
GB = 1e9
# Bytes of the largest GPU that is common: an A100 or H100.
COMMON_GPU = 80e9
# Keys and values that lower the memory. The first ones cost least time.
SIZES = (64, 32, 16, 8, 4, 2, 1)
CHANGES: list[tuple[str, int]] = [
    ("training.cache_weights", False),
    ("training.gradient_checkpointing", True),
    *(("training.micro_batch_size", size) for size in SIZES),
    ("training.shard_model", True),
    *(("evaluation_batch_size", size) for size in SIZES),
]


def run(*, configfile: tuple[Path, ...] = (), config: tuple[str, ...] = ()) -> None:
    """Print the estimate.

    Args:
        configfile: configuration files, laid over config/config.yaml in this order
        config: KEY=VALUE, laid over the files, with the value in YAML
    """
    print(report(read_configuration(configfile, config), smallest_gpu()))


def report(config: Config, card: int | None) -> str:
    """Return the estimate as text, for GPUs of `card` bytes as in `Requests`. Raises InputError for a model whose sizes
    are not known yet."""
    requests, jobs = Requests(config, card), study_jobs(config)
    trained = targets.run_targets(config, "train.json", trained_only=True)
    # A model of unknown size is an error here, and only a note in a plan.
    disk(requests, jobs)
    title = f"ESTIMATE of {len(targets.runs(config)):,} runs; {len(trained):,} are trained"
    return "\n".join([title, *examples(config), summary(requests, jobs, has_all=True)])


def study_jobs(config: Config) -> list[Planned]:
    """Return each job of the whole study that reads or runs a model."""
    jobs = [Job("prepare_model", model) for model in config.grid.models]
    sampled = [name for name in config.texts_read() if config.texts[name].text == SELF]
    originals = sorted(set(map(config.original, config.grid.models)))
    jobs += [Job("sample_text", model, text=text) for model in originals for text in sampled]
    passes = {}
    for run in targets.runs(config):
        # One per method for all sparsities, or one per sparsity if it has a pruned base.
        has_base = get_method(run.method).has_pruned_base
        folder = fill((base_folder if has_base else mask_folder)(run.method), run)
        job = Job.of("compute_masks", vars(run))
        passes[folder, run.method] = job if has_base else replace(job, sparsity=None)
    jobs += passes.values()
    for run in targets.runs(config):
        jobs += [Job.of(stage, vars(run)) for stage in ("merge", "validate_sparsity", "evaluate")]
        if run.training:
            jobs.append(replace(jobs[-1], split=SELECTION))
        if run.mode != NO_FINETUNE:
            # Before the merge.
            stages = ("evaluate", "reconstruct" if get_mode(run.mode).reconstructs else "train")
            jobs += [Job.of(stage, vars(run)) for stage in stages]
    if config.ship:
        # The search and the measurement.
        jobs += [Job(stage, config.ship.model) for stage in ("find_shares", "ship")]
    return [(job, "") for job in jobs]


def examples(config: Config) -> list[str]:
    """Return a line per task with choices or generated answers: its examples, and how many a small difference would
    need."""
    needed = rows_needed(DETECTABLE, math.sqrt(DISAGREEING - DETECTABLE**2), tests=1)
    return [
        f"{task}: {own.rows[1]:,} validation examples; a difference of {DETECTABLE} of two accuracies needs about"
        f" {needed:,.0f}, and more in several comparisons or if seeds vary (docs/statistics.md)"
        for task in config.grid.tasks
        if (own := task_lengths(config, task)).choices or own.max_new_tokens
    ]


def summary(requests: Requests, jobs: Iterable[Planned], *, has_all: bool = False) -> str:
    """Return a sentence on the hours of some jobs, and on what they write if their models are known.

    A line follows for each model and kind of job that needs more memory than there is, or for each if `has_all`."""
    jobs = list(jobs)
    try:
        kept, running = disk(requests, jobs)
        lines = memory(requests, jobs, has_all)
    except InputError as error:
        return f"no estimate of hours and disk: {error}"
    space = [f"{size / GB:,.2f} GB of {name}" for name, size in sorted(kept.items())]
    space.append(f"{running / GB:,.2f} GB per running job")
    return "\n".join([f"{hours(requests, jobs)}; disk: {', '.join(space)}", *lines])


def disk(requests: Requests, jobs: Iterable[Planned]) -> tuple[Counter[str], int]:
    """Return the bytes of the files that jobs leave, by what they are, and what a running one needs in addition."""
    kept: Counter[str] = Counter()
    running = 0
    for job, _ in jobs:
        needs = requests.needs(job)
        kept.update(needs.kept)
        running = max(running, needs.temporary)
    return +kept, running


def check_disk(requests: Requests, jobs: Iterable[Planned]) -> None:
    """Raise InputError if what jobs write does not fit on the disk. Nothing is known before a model's size is.

    A folder of models, masks or pruned bases that is a link is on another disk, and does not count."""
    try:
        written, running = disk(requests, jobs)
    except InputError:
        return
    needed = running + sum(size for what, size in written.items() if not Path(what).is_symlink())
    if needed > (free := shutil.disk_usage(Path()).free):
        what = f"the disk of this folder: {needed / GB:,.1f} GB are needed, and {free / GB:,.1f} are free"
        raise InputError(what, "free some, or let models, masks or pruned be a link to another disk")


def memory(requests: Requests, jobs: Iterable[Planned], has_all: bool) -> list[str]:
    """Return a line for each model and kind of job whose largest job needs more memory than there is, with a change
    that helps.

    With `has_all`, there is a line for each. A GPU of unknown size has COMMON_GPU. Without resources.memory_mb,
    a job may use the memory of this machine."""
    read = dict.fromkeys(job for job, _ in jobs if job.model)
    by_size = sorted(read, key=lambda job: sum(requests.bytes_of(job)))
    # They stand where the first of their kind does. A method without examples does not run the model.
    runs = {job: requests.needs(job).tokens > 0 for job in read}
    largest = {(job.model, job.stage, job.split, runs[job]): job for job in (*read, *by_size)}
    shares = requests.config.resources.jobs_per_gpu
    place = "on a GPU" if shares == 1 else f"on one of {shares} shares of a GPU"
    limits = {
        place: requests.bytes_per_job or COMMON_GPU / shares,
        "in the machine": 1e6 * (requests.config.resources.memory_mb or 0) or virtual_memory().total,
    }
    lines = []
    for job in largest.values():
        sizes = dict(zip(limits, requests.bytes_of(job), strict=True))
        missing = [f"{limit / GB:.0f} GB {place}" for place, limit in limits.items() if sizes[place] > limit]
        advice = f", more than {' and '.join(missing)}; {_advice(requests, job, limits.values())}" if missing else ""
        on_task = f" on {job.task}" if runs[job] and job.task else ""
        what = f"{job.model}: {job.split or job.stage}{on_task}"
        if missing or has_all:
            parts = " and ".join(f"{size / GB:.2f} GB {place}" for place, size in sizes.items() if size)
            lines.append(f"{what} needs {parts}{advice}")
        if not missing and (size := _larger_micro_batch(requests, job, limits.values())):
            lines.append(f"{what} also fits with training.micro_batch_size {size}, which may be faster")
    return lines


def _larger_micro_batch(requests: Requests, job: Job, limits: Iterable[float]) -> object | None:
    """Return the largest micro-batch of SIZES with which a training fits on a GPU; None if it is not larger than its
    own."""
    config = requests.config
    if job.stage != "train" or not config.resources.gpus:
        return None
    own = config.training_of(job.task, job.training).micro_batch_size
    # A task or a training of the grid may have its own.
    sizes = [size for size in SIZES if size > own] if own == config.training.micro_batch_size else []
    changes = [("training.micro_batch_size", size) for size in sizes]
    return (_first_fitting(requests, job, limits, changes) or [None])[-1]


def _advice(requests: Requests, job: Job, limits: Iterable[float]) -> str:
    """Return in words the first of CHANGES with which a job fits into the limits."""
    if change := _first_fitting(requests, job, limits, CHANGES):
        return f"set {change[0]} to {str(change[1]).lower()}"
    return "no single key makes it fit; use a larger machine"


def _first_fitting(
    requests: Requests, job: Job, limits: Iterable[float], changes: Iterable[tuple[str, object]]
) -> tuple[str, object] | None:
    """Return the first key with its value with which a job fits into the limits; None if there is none."""
    config = requests.config
    # What several jobs share.
    card = requests.bytes_per_job and requests.bytes_per_job * config.resources.jobs_per_gpu
    for key, value in changes:
        section, _, name = key.rpartition(".")
        changed = {section: getattr(config, section).model_copy(update={name: value})} if section else {key: value}
        # The configuration refuses some changes.
        with suppress(ValueError):
            tried = Requests(Config.model_validate(vars(config) | changed), card)
            # A large model takes long to describe, and stays the same.
            tried.sizes_of = requests.sizes_of
            if all(size <= limit for size, limit in zip(tried.bytes_of(job), limits, strict=True)):
                return key, value
    return None


def hours(requests: Requests, jobs: Iterable[Planned]) -> str:
    """Return a sentence on how long jobs take on one machine, one at a time, and on what this rests.

    A job of a run takes as long as the equal jobs that Snakemake measured in this results folder, scaled to its rows
    and steps. Without a measurement, its time is the estimate for this machine, and is right within a factor of
    two."""
    speeds, rests = this_machine()
    # By source, the number of jobs and their seconds.
    sources, taken = Counter[str](), Counter[str]()
    equal: Counter[tuple[Job, str, float | None]] = Counter()
    for job, rule in jobs:
        needs = requests.needs(job)
        model = requests.sizes_of(job.model) if job.model else None
        estimated = None if needs.appliance else seconds(requests.resources, needs, model, speeds)
        # Jobs that differ only in method and sparsity take equally long.
        equal[replace(job, method="", sparsity=None), rule, estimated] += 1
    for (job, rule, estimated), number in equal.items():
        training = job.training and f"-{job.training}"
        # The benchmarks of a rule's job, and of those that differ only in method, sparsity and seed.
        files = f"{job.model}-{job.task}-*-{job.mode}{training}-seed*.tsv"
        if measured := _measured(requests, job, Path(requests.config.paths.benchmarks, rule).glob(files)):
            source, lasts = "measured here before", mean(measured)
        else:
            source, lasts = "of unknown time" if estimated is None else "estimated", estimated or 0
        taken[source] += round(number * lasts)
        sources[source] += number
    total, doubt = taken.total() / 3600, taken["estimated"] / 3600
    factor, unit, digits = (60, "minutes", 0) if total < 2 else (1, "hours", 1)
    time, low, high = (f"{factor * each:,.{digits}f}" for each in (total, total - doubt / 2, total + doubt))
    counts = [f"{number:,} job{'s' * (number > 1)} {source}" for source, number in sorted(sources.items())]
    if doubt:
        unit += f" ({low} to {high})"
        counts.append(f"from {rests}" + " and a GPU as fast as an A100" * bool(requests.config.resources.gpus))
    return f"about {time} {unit} on one machine, one job at a time ({', '.join(counts)})"


def _measured(requests: Requests, job: Job, benchmarks: Iterable[Path]) -> list[float]:
    """Return the seconds of a job by each benchmark that Snakemake has written to its end, and whose run has its
    record."""
    measured = []
    for file in benchmarks:
        with suppress(ValueError, IndexError, KeyError):
            taken = float(file.read_text().splitlines()[-1].split()[0])
            measured.append(taken * _growth(requests, job, Path(requests.config.paths.runs, file.stem)))
    return measured


def _growth(requests: Requests, job: Job, run: Path) -> float:
    """Return how many times as long as that of a run a job takes, which had other rows or other steps."""
    if job.stage not in RECORDS:
        return 1
    config, record = requests.config, read_json(run / RECORDS[job.stage])
    data, model = config.task_data(job.task), requests.sizes_of(job.model)
    schedule = {key: record[key] for key in ("steps", "batch_size", "micro_batch_size") if key in record}
    of_run = {"training": schedule, "validation_examples": record.get("examples", data.validation_examples)}
    tasks = config.tasks | {job.task: data.model_copy(update=of_run)}
    reconstruction = config.reconstruction.model_copy(update=schedule)
    then = config.model_copy(update={"tasks": tasks, "reconstruction": reconstruction})
    needed = needs_of(replace(job, training=""), then, requests.sizes_of)
    return seconds(config.resources, requests.needs(job), model) / seconds(config.resources, needed, model)
