"""List the runs and the files of a configuration's study, and check the targets that a user requests."""

import os
import re
from collections.abc import Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sparseft.axes import grid
from sparseft.axes.grid import Run, fill
from sparseft.axes.methods import ON, TASK, get_method
from sparseft.axes.modes import get_mode, with_starts
from sparseft.axes.tasks.task import SPLITS
from sparseft.common.errors import InputError
from sparseft.common.section import refuse
from sparseft.data.settings import DIVERGENCE
from sparseft.storage.hashes import sha256
from sparseft.study.config import Config
from sparseft.training.settings import Narrowed
from sparseft.training.trainers.backends.cerebras import LEAST_TIMED_STEPS

_MASK = r"masks/(?P<model>[^/]+)/(?:(?P<task>[^/]+)/)?masks_sparsity(?P<sparsity>[0-9]{2})_(?P<method>\w+)\.pt"


def wildcards(config: Config) -> dict[str, str]:
    """Return the expressions of the rules' wildcards. They match the names in the configuration, so that Snakemake
    finds no rule for any other model, task, text or training."""
    tasks = _one_of([*config.tasks, *config.evaluation.probes])
    trainings = _one_of([name and f"-{name}" for name in config.training_names])
    methods = _one_of([grid.DENSE, *grid.METHODS])
    on_texts = f"{_one_of(grid.EXAMPLE_METHODS)}{ON}{_one_of([TASK, *config.masks.texts])}"
    return grid.WILDCARDS | {
        "model": _one_of(config.models),
        "task": tasks,
        "method": f"{methods}|{on_texts}|{grid.IMPORTED_METHOD}",
        "task_folder": f"(?:/{tasks})?",
        "sampler": f"(?:-{_one_of(config.models)})?",
        # A run without a training has none in its name.
        "training": f"(?:(?<={grid.NO_FINETUNE})|(?<!{grid.NO_FINETUNE}){trainings})",
    }


def _one_of(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, names))})"


def runs(config: Config) -> list[Run]:
    """Return every run of a configuration's grid, sorted and without duplicates.

    A run from whose adapter another one starts is among them."""
    grid_runs, shape = set(), config.grid
    cells = [(method, percent) for method in shape.methods for percent in shape.percents(method) if percent]
    if 0 in shape.sparsities:
        cells.append((grid.DENSE, 0))
    for model, task, (method, sparsity) in product(shape.models, shape.tasks, cells):
        modes = [mode if sparsity else get_mode(mode).dense_training for mode in config.trained_modes]
        for mode, training, seed in product(modes, config.training_names, shape.seeds):
            grid_runs.add(Run(model, task, method, sparsity, mode, seed, training=training))
        # A seed only changes the training, so one run without training is enough.
        grid_runs.add(Run(model, task, method, sparsity, grid.NO_FINETUNE, min(shape.seeds)))
    return sorted(grid_runs)


def mask_targets(config: Config) -> list[str]:
    """Return the mask files that the grid's runs need."""
    return sorted({fill(grid.mask_path(run.method), run) for run in runs(config)})


def added_sparsities(config: Config) -> list[int]:
    """Return the sparsities of the grid, in percent, whose masks are made one by one.

    They are those that a model and a method lack although they have other masks of the grid. One pass makes the masks
    of all sparsities. If it had to make one more, it would make all of them again, and Snakemake would train on them
    again, although no bit has changed. A method with a pruned base has a job per sparsity in any case, and so has one
    with sparsities of its own, so they decide nothing."""
    added: set[int] = set()
    in_passes = [
        method
        for method in config.grid.methods
        if not get_method(method).has_pruned_base and method not in config.grid.sparsities_of
    ]
    for model, method, task in product(config.grid.models, in_passes, config.grid.tasks):
        path = partial(grid.mask_path(method).format, model=model, method=method, task=task)
        missing = {percent for percent in config.grid.sparsities if not Path(path(sparsity=f"{percent:02d}")).exists()}
        if len(missing) < len(config.grid.sparsities):
            added |= missing
    return sorted(added)


def run_targets(config: Config, *names: str, trained_only: bool = False) -> list[str]:
    """Return the files `names` of every run, or only of every trained run."""
    chosen = [run for run in runs(config) if run.mode != grid.NO_FINETUNE or not trained_only]
    return [f"{fill(config.paths.run, run)}/{name}" for name in names for run in chosen]


def selection_targets(config: Config) -> list[str]:
    """Return the file of every run with its result on the selection rows. Only the trainings with a name are
    compared."""
    return [f"{fill(config.paths.run, run)}/selection.json" for run in runs(config) if run.training]


def data_files(config: Config, task: str, model: str, *splits: str) -> list[str]:
    """Return the prepared rows of a task for a model, of these splits or of all, and the file that defines it unless it
    is built in."""
    folder = config.data_folder(task, model)
    definition = [f"{folder}/manifest.json"] if config.task_data(task).task_kind else []
    return [f"{folder}/{split}.jsonl" for split in splits or SPLITS] + definition


def probe_places(config: Config, task: str) -> list[str]:
    """Return `NAME:FOLDER` of each probe of a merged model of `task`."""
    return [f"{probe}:{grid.DATA.format(task=probe)}" for probe in config.evaluated_tasks(task)[1:]]


def probe_files(config: Config, task: str) -> list[str]:
    """Return the files of the probes of a merged model of `task`."""
    return [file for probe in config.evaluated_tasks(task)[1:] for file in data_files(config, probe, "")]


def measured_digests(config: Config) -> dict[str, str]:
    """Return the sha256 of each measurement of the engines that is there.

    A study shows them, but does not make them. As inputs of a job they would be measured again when their settings or
    versions change."""
    return {path: sha256(Path(path)) for path in run_targets(config, "engines.json") if Path(path).is_file()}


def ship_targets(config: Config) -> list[str]:
    """Return the chosen model for a wish, and what is said of it. Raises InputError if nothing is wished."""
    if not config.ship:
        raise InputError("ship: nothing is wished", "write a section `ship` with a model, and speed or bytes")
    folder = config.paths.ship.format(model=config.ship.model)
    return [f"{folder}/{name}" for name in ("chosen/ship.json", "frontier.csv", "frontier.png", "findings.txt")]


def throughput_targets(config: Config) -> list[str]:
    """Return the files of the measurements that the stage `throughput` makes, one per cell: that of the lowest seed."""
    axes: dict[str, Any] = {"seeds": [min(config.grid.seeds)]}
    for name in Narrowed.model_fields:
        axes[name] = getattr(config.throughput, name) or getattr(config.grid, name)
    axes["trainings"] = {name: config.grid.trainings[name] for name in axes["trainings"]}
    narrowed = config.model_copy(update={"grid": config.grid.model_copy(update=axes)})
    return sorted({fill(config.paths.throughput, run) for run in runs(narrowed) if run.mode in grid.TASK_MODES})


def text_path(config: Config, name: str, model: str, task: str) -> str:
    """Return the prepared file of a calibration text for a model.

    A model that is made from a pruned base has the windows of the model that was pruned first."""
    text = config.texts[name]
    if not text.has_own_windows:
        return grid.CALIBRATION.format(text=name)
    return grid.MIXED.format(
        text=name, model=config.original(model), task_folder=f"/{task}" if TASK in text.parts else ""
    )


def task_windows(config: Config, task: str, sampler: str) -> list[str]:
    """Return the texts of windows that are the rows of a task, by split, as a model samples them; nothing for other
    rows. The model stands behind a hyphen."""
    text, model = config.task_data(task).text, sampler.removeprefix("-")
    return text_paths(config, [text, DIVERGENCE], model, task) if text and model else []


def mask_examples(config: Config, wildcards: Any) -> list[str]:
    """Return the files of the examples that the method of a mask looks at: a text's, a task's, or none."""
    method = get_method(wildcards.method)
    if method.calibration:
        text = text_path(config, method.calibration, wildcards.model, wildcards.task)
        return [text, f"{text}.json"]
    return data_files(config, wildcards.task, wildcards.model, "train") if method.uses_task else []


def window_files(config: Config) -> list[Path]:
    """Return the files of the texts that the models of the study sample, and of the mixtures."""
    names = [name for name in config.texts_read() if config.texts[name].has_own_windows]
    cells = product(names, config.grid.models, config.grid.tasks)
    return sorted({Path(text_path(config, *cell)) for cell in cells})


def text_paths(config: Config, names: Iterable[str | None], model: str, task: str) -> list[str]:
    """Return the prepared files of some texts for a model, each once. None stands for the examples of the task."""
    return [text_path(config, name, model, task) for name in dict.fromkeys(names) if name]


def seen_texts(config: Config, run: Run) -> list[str]:
    """Return the prepared texts on which a run's mask was calibrated, or on which its decoder layers were
    reconstructed."""
    names = [get_method(run.method).calibration]
    if get_mode(get_mode(run.mode).starts_from or run.mode).reconstructs:
        names.append(config.reconstruction.calibration)
    return text_paths(config, names, run.model, run.task)


def first_evaluations(config: Config) -> list[str]:
    """Return the evaluation of one run per model and task."""
    first = {(run.model, run.task): run for run in reversed(runs(config))}
    return [f"{fill(config.paths.run, run)}/evaluation.json" for run in first.values()]


def record_targets(config: Config) -> list[str]:
    """Return the records of all runs, which the analysis reads."""
    of_trainings = run_targets(config, "train.json", "before_merge.json", trained_only=True)
    of_all = run_targets(config, "merge.json", "validation_report.json", "evaluation.json")
    return selection_targets(config) + of_trainings + of_all


def final_targets(config: Config) -> list[str]:
    """Return the files of a finished study. The files of every run are among them, so that a lost one is made again."""
    files = [f"{config.paths.analysis}/{name}" for name in ("summary.csv", grid.CONFIGURATION)]
    trained = [folder for run in runs(config) for folder in config.paths.trained(run)]
    return files + trained + record_targets(config)


def check_target(config: Config, target: str, is_made: bool = True, stages: Iterable[str] = ()) -> None:
    """Raise InputError if a target, a file or one of the `stages`, is impossible, or if it does not exist and no rule
    makes it."""
    path = target if os.path.isabs(target) else os.path.relpath(target)
    # Existing files too, because a job deletes its outputs before it reads its input.
    _check_place(config, path)
    if os.path.exists(path):
        return
    if not is_made:
        advice = f"name a stage ({', '.join(stages)}), or a file of the study: {_names(config)}"
        raise InputError(f"{target}: no stage and no rule makes it", advice)
    if mask := re.fullmatch(_MASK, path):
        config.masks.text_of(get_method(mask["method"]))
        place = grid.mask_path(mask["method"]).format(**mask.groupdict("TASK"))
        if place != path:
            raise InputError(f"{target}: the masks of {mask['method']} are in another place", f"write {place}")


def _names(config: Config) -> str:
    """Return the values of each axis, as they stand in the names of files."""
    shape = config.grid
    percents = {percent for method in shape.methods for percent in shape.percents(method)}.union(shape.sparsities)
    axes = {
        "models": config.models,
        "tasks": [*config.tasks, *config.evaluation.probes],
        "methods": shape.methods,
        "sparsities": [f"{percent:02d}" for percent in sorted(percents)],
        "modes": with_starts([grid.NO_FINETUNE, *shape.modes]),
        "trainings": shape.trainings,
    }
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in axes.items() if values)


def _check_place(config: Config, target: str) -> None:
    """Raise InputError if a target is deleted, or if what it measures cannot be measured."""
    of_run = target.rpartition("/")[2] if target.startswith(f"{config.paths.runs}/") else ""
    if of_run == "model_dir" and not config.keep_merged:
        kept = target.replace("/model_dir", "/merged")
        raise InputError(f"{target}: it is deleted after its evaluation", f"write {kept}, or set keep_merged: true")
    if target == "ship":
        ship_targets(config)
    if target == "engines" or of_run == "engines.json":
        config.export.check(target)
    if target.startswith(("throughput", f"{config.results}/throughput/", config.paths.throughput_table)):
        names = config.throughput.trainings or config.training_names
        trainings = [config.training_of(*cell) for cell in product(config.grid.tasks, names)]
        on_csx = config.training_backend.appliance and config.cerebras.on_csx
        refuse(
            {
                f"{target}: the backend {config.backend} does not measure it; set backend: torch": (
                    not config.training_backend.measures
                ),
                f"{target}: it is measured without a teacher; set training.distillation to null": any(
                    training.distillation for training in trainings
                ),
                f"{target}: the whole model is measured on one device; set training.shard_model to false": any(
                    training.shard_model for training in trainings
                ),
                f"{target}: the first steps on a CS-3 are not typical; set throughput.steps to {LEAST_TIMED_STEPS} or"
                " more, and throughput.warmup_steps to 10": on_csx and config.throughput.steps < LEAST_TIMED_STEPS,
            }
        )
