"""What a configuration asks for: the runs of its grid, and their files."""

import hashlib
import json
from itertools import product

from sparseft.config import Config
from sparseft.grid import (
    ANALYSIS,
    DENSE,
    NO_FINETUNE,
    RUN,
    TASK_METHODS,
    THROUGHPUT,
    TRAINED_MODES,
    Run,
    fill,
    mask_path,
    split_method,
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


def sparsities(config: Config) -> list[str]:
    """The grid's sparsities as names spell them."""
    return [f"{percent:02d}" for percent in config.grid.sparsities]


def mask_targets(config: Config) -> list[str]:
    """The mask files that the grid's runs need."""
    return sorted({fill(mask_path(run.method), run) for run in runs(config)})


def run_targets(config: Config, name: str, *, trained_only: bool = False) -> list[str]:
    """The file `name` of every run; of the trained runs alone where the others have none."""
    chosen = [run for run in runs(config) if run.mode != NO_FINETUNE or not trained_only]
    return [f"{fill(RUN, run)}/{name}" for run in chosen]


def throughput_targets(config: Config) -> list[str]:
    """The measurement of every cell of the grid that is trained, and that `throughput:` does not leave out."""
    chosen = {name: getattr(config.throughput, name) or getattr(config.grid, name)
              for name in ("methods", "sparsities", "modes")}  # fmt: skip
    narrowed = config.model_copy(update={"grid": config.grid.model_copy(update=chosen)})
    return sorted({fill(THROUGHPUT, run) for run in runs(narrowed) if run.mode != NO_FINETUNE})


def programs(config: Config) -> dict[str, Run]:
    """Every program that is to be compiled for the wafer, by name, with the first run of those that share it."""
    found: dict[str, Run] = {}
    for run in runs(config) if config.backend == "cerebras" and config.cerebras.compiles_first else []:
        if run.mode != NO_FINETUNE:
            found.setdefault(program(config, run), run)
    return found


def program(config: Config, run: Run) -> str:
    """The name of a run's compiled program: runs that differ in seed, task or choice of weights alone share it.

    Rather one too many than one too few: a program that turns out to be there is found, one that is not is compiled
    inside the training."""
    layers = _layer_counts(config, run)
    settings = config.training_of(run.task).model_dump(exclude=NOT_COMPILED)
    source = config.models[run.model].model_dump()
    settings |= config.cerebras.model_dump(include=config.cerebras.DECIDING)
    digest = hashlib.sha256(json.dumps([source, settings], sort_keys=True).encode()).hexdigest()
    return f"{run.model}-{layers}-sparsity{run.sparsity:02d}-{run.mode}-{digest[:8]}"


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
    return [f"{ANALYSIS}/summary.csv", *trained, *(path for name in files for path in run_targets(config, name))]
