"""Run <-> run_id <-> paths: the only place that spells a name or a path of the study.

A run is one cell of model x task x method x sparsity x mode x seed. The dense runs (sparsity 00) do not
depend on the method: they carry the method word `dense`, once per model, task and seed, and every curve
shares them. `sparse_to_dense` at sparsity 00 is plain LoRA; `no_finetune` is the model as it came.
"""

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from sparseft.errors import InputError

if TYPE_CHECKING:
    from sparseft.config import Config

PATTERNS = ("unstructured", "structured", "random")
IMPORTANCES = ("magnitude",)
MODES = ("sparse_to_dense", "sparse_to_sparse", "no_finetune")
DENSE = "dense"
TASKS = ("boolq", "hellaswag", "gsm8k", "boolq_mini", "hellaswag_mini", "gsm8k_mini")
TABLES = ("summary", "grouped_summary", "sparsity_vs_performance", "throughput_vs_batch_size", "missing")

# The same expressions constrain Snakemake's wildcards and parse a run_id. No name holds a '-'.
WILDCARDS = {
    "model": r"[A-Za-z0-9_.]+",
    "task": r"[a-z0-9_]+",
    "method": rf"(?:{'|'.join((DENSE, *PATTERNS))})",
    "sparsity": r"[0-9]{2}",
    "mode": rf"(?:{'|'.join(MODES)})",
    "seed": r"(?:0|[1-9][0-9]*)",
}
RUN_ID = "{model}-{task}-{method}-sparsity{sparsity}-{mode}-seed{seed}"
_RUN_ID = re.compile(RUN_ID.format(**{name: f"(?P<{name}>{regex})" for name, regex in WILDCARDS.items()}))


@dataclass(frozen=True, order=True)
class Run:
    """One cell of the grid; `sparsity` in percent of the prunable weights."""

    model: str
    task: str
    method: str
    sparsity: int
    mode: str
    seed: int

    @property
    def id(self) -> str:
        """The run's name, its folder under results/runs/."""
        return fill(RUN_ID, self)

    @classmethod
    def parse(cls, run_id: str) -> "Run":
        """The inverse of `id`. Raises InputError on a name that is not a run's."""
        match = _RUN_ID.fullmatch(run_id)
        if not match:
            raise InputError(f"{run_id!r} is not the name of a run", f"write {RUN_ID}")
        keys = match.groupdict()
        return cls(**{**keys, "sparsity": int(keys["sparsity"]), "seed": int(keys["seed"])})


def split_method(method: str) -> tuple[str, str]:
    """`PATTERN[_IMPORTANCE]` -> (pattern, importance); magnitude when left out, and none for random."""
    pattern, _, importance = method.partition("_")
    if method == DENSE or method == "random":
        return method, "none"
    if pattern not in PATTERNS or (importance or "magnitude") not in IMPORTANCES or pattern == "random":
        raise InputError(f"method {method!r} is unknown", f"choose one of {', '.join(PATTERNS)}")
    return pattern, importance or "magnitude"


def mask_name(sparsity: int | str, method: str) -> str:
    """The name of a mask file without its suffix."""
    return f"masks_sparsity{sparsity:0>2}_{method}"


# Every path of the study, relative to its folder; {braces} are the wildcards above.
MODEL = "models/{model}"
MANIFEST = f"{MODEL}/manifest.json"
DATA = "data/{task}"
MASKS = "masks/{model}"
MASK = f"{MASKS}/masks_sparsity{{sparsity}}_{{method}}.pt"
RUNS = "results/runs"
RUN = f"{RUNS}/{RUN_ID}"
ANALYSIS = "results/analysis"


def runs(config: "Config") -> list[Run]:
    """Every run of a configuration's grid, sorted, none twice."""
    grid = config.grid
    found = set()
    for model, task in product(grid.models, grid.tasks):
        for sparsity in grid.sparsities:
            for method in grid.methods if sparsity else [DENSE]:
                modes = grid.modes if sparsity else ["sparse_to_dense"]  # at sparsity 00: plain LoRA
                found |= {Run(model, task, method, sparsity, *cell) for cell in product(modes, grid.seeds)}
                found.add(Run(model, task, method, sparsity, "no_finetune", min(grid.seeds)))
    return sorted(found)


def mask_targets(config: "Config") -> list[str]:
    """The mask files that the grid's runs need."""
    return sorted({fill(MASK, run) for run in runs(config)})


def run_targets(config: "Config", name: str, *, trained_only: bool = False) -> list[str]:
    """The file `name` of every run; of the trained runs alone where the others have none."""
    chosen = [run for run in runs(config) if run.mode != "no_finetune" or not trained_only]
    return [f"{fill(RUN, run)}/{name}" for run in chosen]


def final_targets(config: "Config") -> list[str]:
    """All that a finished study consists of: the tables, and every run's files, so that a lost one is made again."""
    files = ("merge.json", "validation_report.json", "evaluation.json")
    trained = [path for name in ("train.json", "adapter") for path in run_targets(config, name, trained_only=True)]
    return [f"{ANALYSIS}/summary.csv", *trained, *(path for name in files for path in run_targets(config, name))]


def fill(pattern: str, run: Run) -> str:
    """A path of `run`: its keys in the place of the wildcards."""
    return pattern.format(**{**vars(run), "sparsity": f"{run.sparsity:02d}"})
