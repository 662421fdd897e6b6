"""Estimate what a study needs before anything runs: its disk space, the memory of its jobs, and its hours.

The bytes of models, masks and adapters are exact but for the headers of their files. The rest depends on the data and the
machine. Of a model only config.json is read, and torch is not imported.
"""

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import yaml

from sparseft.errors import InputError
from sparseft.methods import SELF, get_method
from sparseft.modes import get_mode
from sparseft.planning.devices import machine_memory
from sparseft.planning.power import rows_needed
from sparseft.planning.probe import this_machine
from sparseft.planning.requests import (
    ADAM,
    EVALUATIONS,
    KIND_OF,
    PLACED,
    RUN_THE_MODEL,
    JobKind,
    Machine,
    Requests,
    job_bytes,
    job_seconds,
    process_memory,
)
from sparseft.planning.sizes import Subject, task_lengths
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import read_sections
from sparseft.study.grid import CONFIGURATION, DENSE, NO_FINETUNE, base_folder, fill, mask_folder, training_name
from sparseft.study.section import parse_section

# A job's rule and its wildcards.
Job = tuple[str, Mapping[str, str]]
# A difference of two accuracies, and the share of the answers in which the two models differ: that of benchmarks/intervals.py.
DIFFERENCE, DIFFERING = 0.05, 0.2
# The estimate of a job that was not measured may be wrong by this factor.
UNCERTAIN = 2
ESTIMATED = "estimated"
GB = 1e9
# Bytes of the largest GPU that is common: an A100 or H100.
CARD = 80e9
# Rule -> what the files that it leaves are called, and the folder of all that are not in the results.
WRITES = {
    "prepare_model": "models",
    **dict.fromkeys(("compute_masks", "compute_one_mask", "prune", "import_pruned"), "masks"),
    **dict.fromkeys(("train_adapter", "reconstruct_adapter"), "adapters"),
    **dict.fromkeys(("merge_adapter", "merge_to_keep"), "merged models"),
}
FOLDERS = {"models": "models", "masks": "masks", "pruned bases": "pruned"}
# Numbers of GPUs of one machine, for the advice.
GPUS = (2, 4, 8)


def report(config: Config) -> str:
    """Return the estimate as text. Raises InputError for a model whose sizes are not known yet."""
    runs = targets.runs(config)
    kept, _ = disk(config, study_jobs(config))
    programs = len(targets.programs(config))
    lines = [
        "ESTIMATE, from the configuration, the times of earlier jobs and the speeds of this machine. GB: 1,000,000,000 bytes.",
        f"runs: {len(runs):,}, of which {sum(run.mode != NO_FINETUNE for run in runs):,} are trained",
        *([f"compilations for the CS-3: {programs}, before the trainings that share them"] if programs else []),
        "disk, GB",
        *[f"  {name:16} {size / GB:>10,.2f}" for name, size in kept.items()],
        "memory of a job, GB",
        *memory(config),
        *examples(config),
        needs(config, study_jobs(config), this_machine()),
    ]
    return "\n".join(lines)


def examples(config: Config) -> list[str]:
    """Return a line per task with choices or generated answers: its examples, and how many a small difference would need."""
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


def needs(config: Config, jobs: Iterable[Job], machine: Machine | None) -> str:
    """Return a sentence on the hours of some jobs, and on the disk space of the whole study if its models are known.

    A line follows for each model and kind of job that needs more memory than there is."""
    jobs = list(jobs)
    try:
        kept, running = disk(config, study_jobs(config))
        lines = too_large(config, jobs)
    except InputError as error:
        return f"no estimate of hours and disk: {error}"
    space = f"{sum(kept.values()) / GB:,.2f} GB, and {running / GB:,.2f} GB per running job"
    return "\n".join([f"{hours(config, jobs, machine)}; disk: {space}", *lines])


def too_large(config: Config, jobs: Iterable[Job]) -> list[str]:
    """Return a line for each model and kind of job that needs more memory than there is, with the least change that helps.

    Without resources.gpu_memory_mb, a GPU has CARD. Without resources.memory_mb, a job may use the memory of this machine."""
    requests = Requests(config)
    resources = config.resources
    limits = {
        "on a GPU": 1e6 * (resources.gpu_memory_mb or 0) or CARD,
        "in the machine": 1e6 * (resources.memory_mb or 0) or machine_memory(),
    }
    lines: dict[tuple[str, str], str] = {}
    for job in dict.fromkeys(kind_of(rule, wildcards) for rule, wildcards in jobs):
        if not job or not job.model or (job.model, job.kind) in lines:
            continue
        subject = requests.subject(job.model)
        needed = _needed(config, job, subject)
        missing = [
            f"{size / GB:.0f} GB {where}, which has {limits[where] / GB:.0f}"
            for where, size in needed.items()
            if size > limits[where]
        ]
        if not missing:
            continue
        advice = "use a larger one"
        for change in _smaller(config, job):
            less = _needed(_changed(config, change), job, subject)
            if all(size <= limits[where] for where, size in less.items()):
                text = yaml.safe_dump(change, default_flow_style=True, sort_keys=False, width=1000).strip()
                sizes = ", ".join(f"{size / GB:.0f} GB {where}" for where, size in less.items() if size)
                advice = f"set {text[1:-1]} ({sizes})"
                break
        what = " on ".join(filter(None, (job.kind, job.task)))
        lines[job.model, job.kind] = f"{job.model}: {what} needs {' and '.join(missing)}; {advice}"
    return list(lines.values())


def _needed(config: Config, job: JobKind, subject: Subject) -> dict[str, int]:
    """Return the bytes that a job needs at least on each of its GPUs, and in the machine for all of its processes."""
    in_machine = job_bytes(config, job, subject)
    if job.kind not in RUN_THE_MODEL:
        return {"on a GPU": 0, "in the machine": in_machine}
    on_device, always_in_machine = process_memory(config, job, subject)
    on_gpu = sum(on_device.values()) if config.resources.gpus else 0
    # The decoder layers of an evaluation or of a teacher that do not fit stay in their files.
    processes = config.resources.processes if job.kind == "training" else 1
    in_machine -= processes * always_in_machine.get("layers in their files", 0)
    if job.kind in PLACED:
        less = on_device["weights"] - subject.width * subject.layer_and_outside
        on_gpu, in_machine = (on_gpu - less, in_machine) if on_gpu else (0, in_machine - less)
    return {"on a GPU": on_gpu, "in the machine": in_machine}


def _smaller(config: Config, job: JobKind) -> Iterator[dict[str, Any]]:
    """Yield changes of the configuration with which a job needs less memory. The first ones cost least time."""
    small_batches = {"evaluation_batch_size": 1}
    if job.kind in EVALUATIONS:
        yield small_batches
    if job.kind != "training":
        return
    settings, gpus = config.training_of(job.task, job.training), config.resources.gpus

    def training(**keys: object) -> dict[str, dict]:
        changed = {key: value for key, value in keys.items() if getattr(settings, key) != value}
        return {"training": changed} if changed else {}

    whole = {"gradient_checkpointing": True, "cache_weights": False}
    divided = whole | {"shard_model": True}
    for placed in (whole, divided)[: 1 + bool(gpus)]:
        yield training(**placed)
        yield training(**placed, micro_batch_size=1) | small_batches
    for number in filter(gpus.__lt__, GPUS) if gpus else ():
        yield training(**divided, micro_batch_size=1) | {"resources": {"gpus": number, "processes": number}}


def _changed(config: Config, change: Mapping[str, Any]) -> Config:
    """Return the configuration with other values of some keys, or of some keys of its sections."""
    sections = {
        key: getattr(config, key).model_copy(update=new) for key, new in change.items() if isinstance(new, dict)
    }
    return config.model_copy(update={**change, **sections})


def disk(config: Config, jobs: Iterable[Job]) -> tuple[Counter[str], int]:
    """Return the bytes of the files that jobs leave, by what they are, and what a running one needs in addition."""
    requests = Requests(config)
    kept: Counter[str] = Counter()
    largest_model, largest_adapter = 0, 0
    for rule, wildcards in jobs:
        if rule not in WRITES:
            continue
        model = requests.subject(wildcards["model"])
        largest_model = max(largest_model, model.bytes)
        if WRITES[rule] == "masks":
            method = wildcards["method"]
            has_base = get_method(method).has_pruned_base
            number = 1 if rule != "compute_masks" or method == DENSE or has_base else len(config.grid.percents(method))
            kept.update({"masks": number * (model.prunable_weights // 8), "pruned bases": has_base * model.bytes})
        elif WRITES[rule] == "adapters":
            numbers = model.adapter_numbers(config, wildcards["task"], training_name(wildcards["training"]))
            largest_adapter = max(largest_adapter, numbers)
            kept["adapters"] += 4 * numbers
        else:
            kept[WRITES[rule]] += model.bytes if rule != "merge_adapter" or config.keep_merged else 0
    # A merged model or a masked checkpoint, and the saved state of a training beside the one that it replaces.
    return +kept, largest_model + 2 * (ADAM - 4) * largest_adapter


def check_disk(config: Config, jobs: Iterable[Job]) -> None:
    """Raise InputError if what jobs write does not fit on the disk. Nothing is known before a model's size is.

    A folder that is a link is on the disk that it links to."""
    try:
        written, running = disk(config, jobs)
    except InputError:
        return
    by_disk: Counter[Path] = Counter()
    for what, size in (*written.items(), ("running", running)):
        folder = Path(FOLDERS.get(what, config.results)).resolve()
        by_disk[next(path for path in (folder, *folder.parents) if path.is_mount())] += size
    for place, size in by_disk.items():
        free = shutil.disk_usage(place).free
        if size > free:
            what = f"the disk at {place}: {size / GB:,.1f} GB are needed, and {free / GB:,.1f} are free"
            raise InputError(what, f"free some, or let one of {', '.join(FOLDERS.values())} be a link to another disk")


def memory(config: Config) -> list[str]:
    """Return a line per model and kind of job, in GB: of the task, method and training that need most, with the parts."""
    requests = Requests(config)
    largest: dict[tuple[str, str], tuple[int, str]] = {}
    jobs = (kind_of(rule, wildcards) for rule, wildcards in study_jobs(config))
    for job in dict.fromkeys(job for job in jobs if job and job.kind in RUN_THE_MODEL):
        device, machine = process_memory(config, job, requests.subject(job.model))
        on_device, in_machine = sum(device.values()), sum(machine.values())
        total = f"{(on_device + in_machine) / GB:.2f}"
        if config.resources.gpus:
            total = f"{on_device / GB:.2f} on the GPU, {in_machine / GB:.2f} in the machine"
        parts = ", ".join(f"{part} {size / GB:.2f}" for part, size in (device | machine).items() if size)
        cell = " ".join(filter(None, (job.task, job.method, job.training)))
        line = f"  {job.model} {job.kind} {total}{_placement(requests, job, device, machine)}: {parts} ({cell})"
        largest[job.model, job.kind] = max(largest.get((job.model, job.kind), (0, "")), (on_device + in_machine, line))
    return [line for _, line in largest.values()]


def _placement(requests: Requests, job: JobKind, device: Mapping[str, int], machine: Mapping[str, int]) -> str:
    """Return in words where the weights of a job are, if they are not whole on one device of this machine."""
    # A backend with devices of its own has no weights here.
    if device.get("weights") in (None, requests.subject(job.model).bytes):
        return ""
    if job.kind in PLACED:
        gpus = requests.gpus(job)
        return f", weights {f'on GPUs: {gpus}' if gpus else 'in the machine'}, the others in their files"
    if job.kind != "training":
        return ", a decoder layer at a time"
    processes = requests.config.resources.processes
    return ", weights in the machine" if "weights" in machine else f", weights divided among {processes}"


def study_jobs(config: Config) -> Iterator[Job]:
    """Yield the rule and the wildcards of each job of the whole study that reads or runs a model."""
    yield from (("prepare_model", {"model": model}) for model in config.grid.models)
    sampled = [name for name in config.texts_read() if config.texts[name].text == SELF]
    yield from (("sample_text", {"model": model, "text": text}) for model in config.grid.models for text in sampled)
    passes = {}
    for run in targets.runs(config):
        # One per method for all sparsities, or one per sparsity if it has a pruned base.
        folder_of = base_folder if get_method(run.method).has_pruned_base else mask_folder
        passes[fill(folder_of(run.method), run), run.method] = run
    yield from (("compute_masks", vars(run)) for run in passes.values())
    for run in targets.runs(config):
        rules = ["merge_adapter", "validate_sparsity", "evaluate_run", *["evaluate_selection"] * bool(run.training)]
        if run.mode != NO_FINETUNE:
            rules += ["evaluate_adapter", "reconstruct_adapter" if get_mode(run.mode).reconstructs else "train_adapter"]
        training = run.training and f"-{run.training}"
        yield from ((rule, vars(run) | {"training": training}) for rule in rules)


def kind_of(rule: str, wildcards: Mapping[str, str]) -> JobKind | None:
    """Return the kind of a job of a rule; None if it neither reads nor runs a model."""
    if rule not in KIND_OF:
        return None
    if "model" not in wildcards:
        # A compilation names its program only.
        return JobKind(KIND_OF[rule], "")
    # The rules of the masks have the folder of the task.
    cell = SimpleNamespace(**{"task": wildcards.get("task_folder", "").removeprefix("/"), **wildcards})
    return JobKind.of(rule, cell)


def hours(config: Config, jobs: Iterable[Job], machine: Machine | None) -> str:
    """Return a sentence on how long jobs take on one machine, one at a time, and on what this rests.

    A job of a run takes as long as the equal jobs that Snakemake measured in this results folder, in proportion to the estimates
    if the settings have changed since. Without a measurement, its time is the estimate for a machine with these speeds, and is
    right within UNCERTAIN."""
    now = earlier = Requests(config)
    # A study that was not analysed has no earlier configuration.
    with suppress(InputError):
        sections = read_sections(Path(config.paths.analysis) / CONFIGURATION)
        earlier = Requests(parse_section(Config, sections, "configuration"))
    equal_jobs = Counter((kind_of(rule, wildcards), _benchmarks(rule, wildcards)) for rule, wildcards in jobs)
    total, doubt = 0.0, 0.0
    sources: Counter = Counter()
    for (job, pattern), number in equal_jobs.items():
        measured = _mean_seconds(Path(config.paths.benchmarks).glob(pattern))
        seconds, source = _seconds_and_source(measured, _seconds(now, job, machine), _seconds(earlier, job, machine))
        total += number * seconds / 3600
        doubt += number * seconds / 3600 if source == ESTIMATED else 0
        sources[source] += number
    bounds = (total, total - doubt * (1 - 1 / UNCERTAIN), total + doubt * (UNCERTAIN - 1))
    time, low, high = (f"{60 * each:.0f}" if total < 2 else f"{each:,.1f}" for each in bounds)
    unit = "minutes" if total < 2 else "hours"
    spread = f" ({low} to {high})" if doubt else ""
    counts = ", ".join(f"{number:,} jobs {source}" for source, number in sorted(sources.items()))
    rests = f", from {machine.source}" if machine and doubt else ""
    rests += ", on a GPU as fast as an A100" if rests and config.resources.gpus else ""
    return f"about {time} {unit}{spread} on one machine, one job at a time ({counts}{rests})"


def _benchmarks(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return the pattern of the benchmarks of a job and of those that differ only in method, sparsity and seed."""
    model, task, mode, training = map(wildcards.get, ("model", "task", "mode", "training"))
    return f"{rule}/{model}-{task}-*-{mode}{training}-seed*.tsv"


def _mean_seconds(benchmarks: Iterable[Path]) -> float | None:
    """Return the mean seconds of some benchmarks; None if Snakemake has written none of them to its end."""
    seconds = []
    for file in benchmarks:
        with suppress(ValueError, IndexError):
            seconds.append(float(file.read_text().splitlines()[-1].split()[0]))
    return mean(seconds) if seconds else None


def _seconds_and_source(measured: float | None, now: float | None, earlier: float | None) -> tuple[float, str]:
    """Return the seconds of a job, and where they come from: its estimate `now`, or what was measured of the `earlier` one."""
    if measured and not now:
        return measured, "measured here before"
    if measured and now and earlier:
        return measured * now / earlier, "measured here before"
    return now or 0, ESTIMATED if now else "of unknown time"


def _seconds(requests: Requests, job: JobKind | None, machine: Machine | None) -> float | None:
    """Return the estimate of a job; None if its model or the speed of the machine, appliance or engine is not known."""
    if job is None or machine is None:
        return machine.start if machine else None
    on_appliance = ("training", "throughput") if requests.config.training_backend.queue_minutes else ()
    if job.kind in ("engines", *on_appliance):
        return None
    try:
        return job_seconds(requests.config, job, requests.subject(job.model), machine)
    except (InputError, KeyError):
        # An earlier configuration need not describe the model or the training.
        return None
