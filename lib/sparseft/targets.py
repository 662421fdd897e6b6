"""What a configuration asks for: the runs of its grid, and their files."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from pathlib import Path, PurePath

from sparseft.config import Config, Training
from sparseft.errors import InputError
from sparseft.grid import (
    ANALYSIS,
    CONFIGURATION,
    DENSE,
    METHODS,
    MODES,
    NO_FINETUNE,
    RUN,
    SEEDS,
    TASK_METHODS,
    THROUGHPUT,
    TRAINED_MODES,
    WILDCARDS,
    Run,
    fill,
    mask_path,
    split_method,
)

# Where the name of a file that may be a target says what it belongs to, whether or not the names are right.
_CELL = "(?P<model>[^/-]+)-(?P<task>[^/-]+)-(?P<method>[^/-]+)-sparsity(?P<sparsity>[^/-]+)-(?P<mode>[^/.-]+)"
_NAMED = (
    rf"results/runs/{_CELL}-seed(?P<seed>[^/-]+)/.+",
    rf"results/throughput/{_CELL}\.json",
    r"masks/(?P<model>[^/]+)/(?:(?P<task>[^/]+)/)?masks_sparsity(?P<sparsity>[^/_]+)_(?P<method>[^/]+)\.pt",
    r"models/(?P<model>[^/]+)/manifest\.json",
    r"data/(?P<task>[^/]+)/(?:train\.jsonl|validation\.jsonl|manifest\.json)",
)
NOT_COMPILED = {"eval_every", "save_every", "length_buckets"}  # keys of `training` that the program does not hold


def runs(config: Config) -> list[Run]:
    """Every run of a configuration's grid, sorted, none twice."""
    grid = config.grid
    found = set()
    for model, task in product(grid.models, grid.tasks):
        for sparsity in grid.sparsities:
            for method in grid.methods if sparsity else [DENSE]:
                modes = grid.modes if sparsity else TRAINED_MODES[:1]  # at sparsity 00: plain LoRA
                found |= {Run(model, task, method, sparsity, *cell) for cell in product(modes, grid.seeds)}
                found.add(Run(model, task, method, sparsity, NO_FINETUNE, min(grid.seeds)))
    return sorted(found)


def mask_targets(config: Config) -> list[str]:
    """The mask files that the grid's runs need."""
    return sorted({fill(mask_path(run.method), run) for run in runs(config)})


def run_targets(config: Config, name: str, *, trained_only: bool = False) -> list[str]:
    """The file `name` of every run; of the trained runs alone where the others have none."""
    chosen = [run for run in runs(config) if run.mode != NO_FINETUNE or not trained_only]
    return [f"{fill(RUN, run)}/{name}" for run in chosen]


def throughput_targets(config: Config) -> list[str]:
    """The measurement of every cell of the grid that is trained, and that `throughput:` does not leave out."""
    return sorted({fill(THROUGHPUT, run) for run in _measured(config)})


@dataclass(frozen=True)
class Program:
    """What the wafer's compiler is given: the training of `run`, `sequence_length` tokens an example, and, unless it is
    `measured` alone, its evaluation."""

    run: Run
    settings: Training
    sequence_length: int
    measured: bool


def training_program(config: Config, run: Run) -> Program:
    """What a run of the study needs."""
    return Program(run, config.training_of(run.task), config.cerebras.sequence_length, measured=False)


def measured_program(config: Config, run: Run, batch_size: int) -> Program:
    """What a measurement of `batch_size` needs."""
    settings = config.throughput.schedule(config.training_of(run.task), batch_size)
    length = config.throughput.sequence_length or config.cerebras.sequence_length
    return Program(run, settings, length, measured=True)


def programs(config: Config) -> dict[str, Program]:
    """Every program that is compiled for the wafer before the study's trainings, by name, of the first that needs it."""
    return _named(config, (training_program(config, run) for run in runs(config) if run.mode != NO_FINETUNE))


def measured_programs(config: Config) -> dict[str, Program]:
    """Every program that is compiled before the stage `throughput`, as `programs`: one a batch size."""
    sizes = sorted(config.throughput.batch_sizes)
    return _named(config, (measured_program(config, *each) for each in product(_measured(config), sizes)))


def program_name(config: Config, program: Program) -> str:
    """The name of a compiled program: runs that differ in seed, task or choice of weights alone share it.

    Rather one too many than one too few: a program that turns out to be there is found, one that is not is compiled
    inside the training."""
    run = program.run
    settings = program.settings.model_dump(exclude=NOT_COMPILED)
    settings |= config.cerebras.model_dump(include=config.cerebras.DECIDING)
    settings |= {"sequence_length": program.sequence_length}
    source = config.models[run.model].model_dump()
    digest = hashlib.sha256(json.dumps([source, settings], sort_keys=True).encode()).hexdigest()
    return f"{run.model}-{_layer_counts(config, run)}-sparsity{run.sparsity:02d}-{run.mode}-{digest[:8]}"


def _named(config: Config, needed: Iterable[Program]) -> dict[str, Program]:
    """By name, the first of those that are one; none where nothing is compiled before it runs."""
    found: dict[str, Program] = {}
    for program in needed if config.backend == "cerebras" and config.cerebras.compiles_first else ():
        found.setdefault(program_name(config, program), program)
    return found


def _measured(config: Config) -> list[Run]:
    """The first seed's run of every cell that the stage `throughput` measures."""
    chosen = {name: getattr(config.throughput, name) or getattr(config.grid, name)
              for name in ("methods", "sparsities", "modes")}  # fmt: skip
    chosen["seeds"] = [min(config.grid.seeds)]
    narrowed = config.model_copy(update={"grid": config.grid.model_copy(update=chosen)})
    return [run for run in runs(narrowed) if run.mode != NO_FINETUNE]


def _layer_counts(config: Config, run: Run) -> str:
    """What decides how many weights of each layer a mask keeps, at its sparsity: the hint that the compiler is given."""
    pattern, _ = split_method(run.method)
    if pattern in (DENSE, "structured"):
        return pattern
    scope = config.masks.scope_of(run.method, config.grid.sparsities)
    if scope != "global":
        return scope
    return f"{run.method}-{run.task}" if run.method in TASK_METHODS else run.method


def final_targets(config: Config) -> list[str]:
    """All that a finished study consists of: the tables, and every run's files, so that a lost one is made again."""
    files = ("merge.json", "validation_report.json", "evaluation.json")
    trained = [path for name in ("train.json", "adapter", "before_merge.json")
               for path in run_targets(config, name, trained_only=True)]  # fmt: skip
    analysis = [f"{ANALYSIS}/summary.csv", f"{ANALYSIS}/{CONFIGURATION}"]
    return [*analysis, *trained, *(path for name in files for path in run_targets(config, name))]


def check_target(config: Config, target: str) -> None:
    """Raise InputError if a target names a model, task, method, sparsity, mode or seed of which no rule makes a file."""
    names: dict[str, str] = {}
    for pattern in _NAMED:
        match = re.fullmatch(pattern, target)
        if match:
            names = {axis: name for axis, name in match.groupdict().items() if name}
    for axis, described in (("model", config.models), ("task", config.tasks)):
        if axis in names and names[axis] not in described:
            raise InputError(
                f"{target}: not in your configuration: {axis} {names[axis]} ({axis}s: {', '.join(described)})",
                f"describe it under {axis}s:, or correct the name",
            )
    for axis, known in (("method", (DENSE, *METHODS)), ("mode", MODES)):
        if axis in names and names[axis] not in known:
            raise InputError(f"{target}: unknown {axis} {names[axis]}", f"choose one of {', '.join(known)}")
    if "sparsity" in names:
        mask = mask_path(names["method"]).format(**{"task": "TASK", **names})
        if target.startswith("masks/") and target != mask:
            raise InputError(f"{target}: not where the masks of {names['method']} lie", f"write {mask}")
        if not Path(mask).exists():
            _check_sparsity(config, target, names["sparsity"], names["method"])
    if "seed" in names and (not re.fullmatch(WILDCARDS["seed"], names["seed"]) or int(names["seed"]) >= SEEDS):
        raise InputError(f"{target}: {names['seed']} is not a seed", f"write a number from 0 to {SEEDS - 1}")


def _check_sparsity(config: Config, target: str, sparsity: str, method: str) -> None:
    """Raise InputError if no rule makes the mask of a method at a sparsity, which is written in percent."""
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
    """Return the error for a target that no rule makes, with the nearest of `names`, which lie in the target's folder."""
    what = f"{target}: no stage and no rule makes it"
    by_last_part = {PurePath(name).name: name for name in names}
    nearest = get_close_matches(PurePath(target).name, sorted(by_last_part), n=1)
    if nearest:
        return InputError(what, f"the nearest name is {by_last_part[nearest[0]]}")
    return InputError(what, f"name a file of the study, or a stage: {', '.join(stages)}")
