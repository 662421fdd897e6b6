"""Run <-> run_id <-> paths: the only place that spells a name or a path of the study.

A run is one cell of model x task x method x sparsity x mode x seed. The dense runs (sparsity 00) do not
depend on the method: they carry the method word `dense`, once per model, task and seed, and every curve
shares them. `sparse_to_dense` at sparsity 00 is plain LoRA; `no_finetune` is the model as it came.
"""

import re
from dataclasses import dataclass

from sparseft.errors import InputError

PATTERNS = ("unstructured", "structured", "random")
NO_FINETUNE = "no_finetune"
TRAINED_MODES = ("sparse_to_dense", "sparse_to_sparse")
MODES = (NO_FINETUNE, *TRAINED_MODES)
DENSE = "dense"
TASKS = ("boolq", "hellaswag", "gsm8k", "boolq_mini", "hellaswag_mini", "gsm8k_mini")
TABLES = ("summary", "grouped_summary", "sparsity_vs_performance", "throughput_vs_batch_size", "missing")

# The same expressions constrain Snakemake's wildcards and parse a run_id. No name holds a '-'.
WILDCARDS = {
    "model": r"[A-Za-z0-9_][A-Za-z0-9_.]*",
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
    """A method -> (pattern, importance). Importance magnitude is left out of a name; random and dense have none."""
    if method not in (DENSE, *PATTERNS):
        raise InputError(f"method {method!r} is unknown", f"choose one of {', '.join(PATTERNS)}")
    return method, "none" if method in (DENSE, "random") else "magnitude"


# Every path of the study, relative to its folder; {braces} are the wildcards above.
MODEL = "models/{model}"
MANIFEST = f"{MODEL}/manifest.json"
DATA = "data/{task}"
MASKS = "masks/{model}"
MASK_NAME = "masks_sparsity{sparsity}_{method}"
MASK = f"{MASKS}/{MASK_NAME}.pt"
RUNS = "results/runs"
RUN = f"{RUNS}/{RUN_ID}"
ANALYSIS = "results/analysis"


def fill(pattern: str, run: Run) -> str:
    """A path of `run`: its keys in the place of the wildcards."""
    return pattern.format(**{**vars(run), "sparsity": f"{run.sparsity:02d}"})
