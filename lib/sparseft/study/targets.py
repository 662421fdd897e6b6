"""List the runs and the files of a configuration's study, and check the targets that a user requests."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path, PurePath

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.storage.hashes import sha256
from sparseft.study.config import Config, Training
from sparseft.study.grid import (
    CALIBRATION,
    CONFIGURATION,
    DATA,
    DENSE,
    MODES,
    NO_FINETUNE,
    PLAIN_LORA,
    SEEDS,
    TASK_METHODS,
    TASK_MODES,
    TRAINED_MODES,
    WILDCARDS,
    ResultPaths,
    Run,
    fill,
    mask_path,
)
from sparseft.tasks.task import SPLITS

# Patterns of files that a user may request. They also match unknown names, so that check_target can say which one is wrong.
_CELL = (
    "(?P<model>[^/-]+)-(?P<task>[^/-]+)-(?P<method>[^/-]+)-sparsity(?P<sparsity>[^/-]+)-(?P<mode>[^/.-]+)"
    "(?:-(?P<training>[^/-]+))?"
)
_NAMED = (
    rf"results/(?:[^/]+/)?runs/{_CELL}-seed(?P<seed>[^/-]+)/.+",
    rf"results/(?:[^/]+/)?throughput/{_CELL}(?:\.json|/.+)",
    r"masks/(?P<model>[^/]+)/(?:(?P<task>[^/]+)/)?masks_sparsity(?P<sparsity>[^/_]+)_(?P<method>[^/]+)\.pt",
    r"models/(?P<model>[^/]+)/manifest\.json",
    r"pruned/(?P<model>[^/]+)/(?:(?P<task>[^/]+)/)?sparsity(?P<sparsity>[^/_]+)_(?P<method>[^/]+)/manifest\.json",
    r"data/(?P<task>[^/]+)/(?:train\.jsonl|validation\.jsonl|selection\.jsonl|(?:selection_)?manifest\.json)",
)
# The stage and the rule that need every measurement of throughput.
_THROUGHPUT_RULES = ("throughput", "analyze_throughput")
# Keys of `training` that do not change the compiled program.
NOT_COMPILED = {"eval_every", "save_every", "length_buckets", "stop_if_loss_above", "stop_if_after_steps"}


def runs(config: Config) -> list[Run]:
    """Return every run of a configuration's grid, sorted and without duplicates.

    A run from whose adapter another one starts is among them."""
    grid = config.grid
    grid_runs = set()
    for model, task in product(grid.models, grid.tasks):
        for sparsity in grid.sparsities:
            for method in grid.methods if sparsity else [DENSE]:
                modes = config.trained_modes if sparsity else [PLAIN_LORA]
                for mode, training, seed in product(modes, config.training_names, grid.seeds):
                    grid_runs.add(Run(model, task, method, sparsity, mode, seed, training=training))
                # A seed only changes the training, so one run without training is enough.
                grid_runs.add(Run(model, task, method, sparsity, NO_FINETUNE, min(grid.seeds)))
    return sorted(grid_runs)


def mask_targets(config: Config) -> list[str]:
    """Return the mask files that the grid's runs need."""
    return sorted({fill(mask_path(run.method), run) for run in runs(config)})


def run_targets(config: Config, name: str, *, trained_only: bool = False) -> list[str]:
    """Return the file `name` of every run, or only of every trained run."""
    chosen = [run for run in runs(config) if run.mode != NO_FINETUNE or not trained_only]
    return [f"{fill(config.paths.run, run)}/{name}" for run in chosen]


def selection_targets(config: Config) -> list[str]:
    """Return the file of every run with its result on the selection rows. Only the trainings with a name are compared."""
    return [f"{fill(config.paths.run, run)}/selection.json" for run in runs(config) if run.training]


def definition_files(config: Config, task: str) -> list[str]:
    """Return the manifest of a task's data if it defines the task; nothing for a built-in task."""
    return [f"{DATA.format(task=task)}/manifest.json"] if config.task_data(task).task_kind else []


def probe_places(config: Config, task: str) -> list[str]:
    """Return `NAME:FOLDER` of each probe of a merged model of `task`."""
    return [f"{probe}:{DATA.format(task=probe)}" for probe in config.evaluated_tasks(task)[1:]]


def probe_files(config: Config, task: str) -> list[str]:
    """Return the files of the probes of a merged model of `task`."""
    files = []
    for probe in config.evaluated_tasks(task)[1:]:
        files += [f"{DATA.format(task=probe)}/{split}.jsonl" for split in SPLITS] + definition_files(config, probe)
    return files


def throughput_digests(config: Config) -> dict[str, str]:
    """Return the sha256 of each measurement of the throughput that is there.

    A study shows them, but does not make them. As inputs of a job they would be measured again after a change of the code."""
    return {path: sha256(Path(path)) for path in throughput_targets(config) if Path(path).is_file()}


def throughput_targets(config: Config) -> list[str]:
    """Return the files of the measurements that the stage `throughput` makes, one per cell."""
    return sorted({fill(config.paths.throughput, run) for run in _measured(config)})


@dataclass(frozen=True)
class Program:
    """Describe a program for the Cerebras compiler: the training of `run` with `sequence_length` tokens per example.

    The program also evaluates, unless it is only `measured`."""

    run: Run
    settings: Training
    sequence_length: int
    measured: bool


def training_program(config: Config, run: Run) -> Program:
    """Return the program that a run of the study needs."""
    return Program(run, config.training_of(run.task, run.training), config.cerebras.sequence_length, measured=False)


def measured_program(config: Config, run: Run, batch_size: int) -> Program:
    """Return the program that a measurement of `batch_size` needs."""
    settings = config.throughput.schedule(config.training_of(run.task, run.training), batch_size)
    length = config.throughput.sequence_length or config.cerebras.sequence_length
    return Program(run, settings, length, measured=True)


def programs(config: Config) -> dict[str, Program]:
    """Return the programs that are compiled before the study's trainings, by name.

    Several runs may need one program. It is described by the first of them."""
    return _by_name(config, (training_program(config, run) for run in runs(config) if run.mode != NO_FINETUNE))


def measured_programs(config: Config) -> dict[str, Program]:
    """Return the programs that are compiled before the stage `throughput`, by name: one per measured cell and batch size."""
    sizes = sorted(config.throughput.batch_sizes)
    needed = (measured_program(config, run, size) for run, size in product(_measured(config), sizes))
    return _by_name(config, needed)


def program_name(config: Config, program: Program) -> str:
    """Return the name of a compiled program. Runs share a program if they differ only in seed, task or choice of weights.

    Two names may stand for the same program. This costs little, because the compiler finds a program that exists. One name
    must not stand for two programs, because the missing one would be compiled inside the training."""
    run = program.run
    settings = program.settings.model_dump(exclude=NOT_COMPILED)
    settings |= config.cerebras.model_dump(include=config.cerebras.DECIDING)
    settings |= {"sequence_length": program.sequence_length}
    source = config.models[run.model].model_dump()
    digest = hashlib.sha256(json.dumps([source, settings], sort_keys=True).encode()).hexdigest()
    return f"{run.model}-{_layer_counts(config, run)}-sparsity{run.sparsity:02d}-{run.mode}-{digest[:8]}"


def _by_name(config: Config, needed: Iterable[Program]) -> dict[str, Program]:
    """Return the first program of each name; empty if nothing is compiled in advance."""
    compiles_first = config.training_backend.compiles_first
    if compiles_first is None or not compiles_first(config):
        return {}
    by_name: dict[str, Program] = {}
    for program in needed:
        by_name.setdefault(program_name(config, program), program)
    return by_name


def _measured(config: Config) -> list[Run]:
    """Return the run with the lowest seed of every cell whose training on the task the stage `throughput` measures."""
    axes = {"seeds": [min(config.grid.seeds)]}
    for name in config.throughput.AXES:
        axes[name] = getattr(config.throughput, name) or getattr(config.grid, name)
    axes["trainings"] = {name: config.grid.trainings[name] for name in axes["trainings"]}
    narrowed = config.model_copy(update={"grid": config.grid.model_copy(update=axes)})
    return [run for run in runs(narrowed) if run.mode in TASK_MODES]


def _layer_counts(config: Config, run: Run) -> str:
    """Return a part of a program's name. Masks of one sparsity with the same part keep equally many weights per layer."""
    method = get_method(run.method)
    if run.method == DENSE or method.pattern.removes_channels:
        return method.pattern.name
    scope = config.masks.scope_of(run.method, config.grid.sparsities)
    if scope != "global" and not method.allocation and method.pattern.has_exact_counts:
        return scope
    # The scores decide how many weights a layer keeps.
    return f"{run.method}-{run.task}" if run.method in TASK_METHODS else run.method


def reconstruction_text(config: Config) -> list[str]:
    """Return the prepared text on which decoder layers are reconstructed; nothing if it is the examples of the task."""
    name = config.reconstruction.calibration
    return [CALIBRATION.format(text=name)] if name else []


def seen_texts(config: Config, mode: str, method: str) -> list[str]:
    """Return the prepared texts on which a run's mask was calibrated, or on which its decoder layers were reconstructed."""
    name = get_method(method).calibration
    texts = [CALIBRATION.format(text=name)] if name else []
    if get_mode(get_mode(mode).starts_from or mode).reconstructs:
        texts += reconstruction_text(config)
    return list(dict.fromkeys(texts))


def final_targets(config: Config) -> list[str]:
    """Return the files of a finished study. The files of every run are among them, so that a lost one is made again."""
    files = [f"{config.paths.analysis}/{name}" for name in ("summary.csv", CONFIGURATION)]
    for name in ("train.json", "adapter", "before_merge.json"):
        files += run_targets(config, name, trained_only=True)
    for name in ("merge.json", "validation_report.json", "evaluation.json"):
        files += run_targets(config, name)
    return files + selection_targets(config)


def check_settings(config: Config, target: str) -> None:
    """Raise InputError if the settings do not allow a mask or a measurement that the target needs.

    `target` is a file or a stage."""
    _check_folder(config.paths, target)
    names = _names_in(target)
    if target in (*_THROUGHPUT_RULES, config.paths.throughput_table, config.paths.throughput_plots):
        for task in config.grid.tasks:
            config.check_measured(task)
    elif target.startswith(f"{config.results}/throughput/") and names.get("task") in config.tasks:
        config.check_measured(names["task"])
    percents = config.grid.sparsities
    method = names.get("method", DENSE)
    is_known = method != DENSE and re.fullmatch(WILDCARDS["method"], method)
    if is_known and names["sparsity"] in [f"{percent:02d}" for percent in percents]:
        config.masks.check(method, percents)


def _check_folder(paths: ResultPaths, target: str) -> None:
    """Raise InputError if the target lies in the results folder of another study."""
    folder = PurePath(target).parts[:2]
    own = [PurePath(path).parts[:2] for path in vars(paths).values()]
    if folder[:1] == ("results",) and len(PurePath(target).parts) > 2 and folder not in own:
        raise InputError(
            f"{target}: not in {paths.folder}, where your configuration has its results",
            "correct the path, or results: in the configuration",
        )


def check_target(config: Config, target: str) -> None:
    """Raise InputError if a target names an unknown model, task, method or mode, or an impossible sparsity or seed."""
    names = _names_in(target)
    tasks = dict.fromkeys([*config.tasks, *config.evaluation.probes])
    for axis, described in (("model", config.models), ("task", tasks)):
        if axis in names and names[axis] not in described:
            raise InputError(
                f"{target}: not in your configuration: {axis} {names[axis]} ({axis}s: {', '.join(described)})",
                f"describe it under {axis}s:, or correct the name",
            )
    if "method" in names:
        _check_method(config, target, names["method"])
    if "mode" in names and names["mode"] not in MODES:
        raise InputError(f"{target}: unknown mode {names['mode']}", f"choose one of {', '.join(MODES)}")
    if "mode" in names:
        config.training_backend.check_modes([names["mode"]])
    if "training" in names or names.get("mode") in TRAINED_MODES:
        _check_training(config, target, names)
    if "sparsity" in names:
        _check_mask(config, target, names)
    if "seed" in names and (not re.fullmatch(WILDCARDS["seed"], names["seed"]) or int(names["seed"]) >= SEEDS):
        raise InputError(f"{target}: {names['seed']} is not a seed", f"write a number from 0 to {SEEDS - 1}")


def _check_training(config: Config, target: str, names: dict[str, str]) -> None:
    """Raise InputError if the study has no training of a target's name, or if the target's mode trains nothing."""
    training = names.get("training", "")
    if names["mode"] == NO_FINETUNE:
        raise InputError(f"{target}: {NO_FINETUNE} has no training", f"leave -{training} out")
    if training in config.training_names:
        return
    known = ", ".join(config.grid.trainings)
    if not known:
        raise InputError(
            f"{target}: your configuration names no training", f"leave -{training} out, or add grid.trainings"
        )
    what = f"training {training} is not in grid.trainings" if training else "it names no training"
    raise InputError(f"{target}: {what}", f"write one of {known} after {names['mode']}-")


def _check_method(config: Config, target: str, method: str) -> None:
    """Raise InputError if a target's method does not exist, or needs a text or checkpoints that are not described."""
    try:
        config.masks.check_described(method)
    except InputError as error:
        what, advice = error.args
        raise InputError(f"{target}: {what}", advice) from None


def _names_in(target: str) -> dict[str, str]:
    """Return the values of the axes that a target names, such as "model"; empty if it is not a file of a study."""
    for pattern in _NAMED:
        match = re.fullmatch(pattern, target)
        if match:
            return {axis: name for axis, name in match.groupdict().items() if name}
    return {}


def _check_mask(config: Config, target: str, names: dict[str, str]) -> None:
    """Raise InputError if the mask of a target does not exist and no rule makes it. The target may be the mask itself."""
    mask = mask_path(names["method"]).format(**{"task": "TASK", **names})
    if target.startswith("masks/") and target != mask:
        raise InputError(f"{target}: the masks of {names['method']} are in another place", f"write {mask}")
    if not Path(mask).exists():
        _check_sparsity(config, target, names["sparsity"], names["method"])


def _check_sparsity(config: Config, target: str, sparsity: str, method: str) -> None:
    """Raise InputError if no rule makes the mask of a method at `sparsity`, the percent as the target writes it."""
    if method == DENSE:
        if sparsity != "00":
            raise InputError(f"{target}: {DENSE} has sparsity 00 only", "write sparsity00, or another method")
        return
    known = [f"{percent:02d}" for percent in config.grid.sparsities]
    if sparsity in known:
        return
    if sparsity.isdecimal() and f"{int(sparsity):02d}" in known:
        raise InputError(f"{target}: sparsity {sparsity}", f"write two digits: sparsity{int(sparsity):02d}")
    listed = ", ".join(map(str, config.grid.sparsities))
    raise InputError(
        f"{target}: not in your grid: sparsity {sparsity} (grid.sparsities: {listed})",
        "add it to grid.sparsities, or correct the name",
    )


def no_rule(target: str, names: Iterable[str], stages: Iterable[str]) -> InputError:
    """Return the error for a target that no rule makes. It suggests the most similar of `names`, or the `stages`.

    `names` are the paths in the target's folder that a rule makes."""
    what = f"{target}: no stage and no rule makes it"
    by_last_part = {PurePath(name).name: name for name in names}
    nearest = get_close_matches(PurePath(target).name, sorted(by_last_part), n=1)
    if nearest:
        return InputError(what, f"the nearest name is {by_last_part[nearest[0]]}")
    return InputError(what, f"name a file of the study, or a stage: {', '.join(stages)}")
