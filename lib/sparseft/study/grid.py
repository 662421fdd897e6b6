"""Run <-> run_id <-> paths: the only place that spells a name or a path of the study.

A run is one cell of model x task x method x sparsity x mode, trained from one seed. The dense runs (sparsity 00) do not
depend on the method: they carry the method word `dense`, once per model, task and seed, and every curve
shares them. `sparse_to_dense` at sparsity 00 is plain LoRA; `no_finetune` is the model as it came.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Self

from sparseft.errors import InputError

PATTERNS = ("unstructured", "structured", "semistructured", "random")
IMPORTANCES = ("magnitude", "gradient", "taylor", "wanda")
TASK_AWARE = IMPORTANCES[1:]  # these look at a task's examples
METHODS = (
    *PATTERNS,
    *(f"{pattern}_{importance}" for pattern in PATTERNS[:3] for importance in TASK_AWARE
      if (pattern, importance) != ("structured", "wanda")),  # wanda compares weights of one row
)  # fmt: skip
TASK_METHODS = tuple(method for method in METHODS if method.endswith(TASK_AWARE))
WEIGHT_METHODS = tuple(method for method in METHODS if method not in TASK_METHODS)
MASK_PLOTS = ("sparsity", "layers", "scores")
MASK_PLOT = "plots/{plot}_{name}.png"
MASK_REPORT = "report_{name}.json"
ADDED_SUFFIX = "_sparsity{sparsity}"  # of the report and the plots of a sparsity's own pass
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
NO_FINETUNE = "no_finetune"
TRAINED_MODES = ("sparse_to_dense", "sparse_to_sparse")
MODES = (NO_FINETUNE, *TRAINED_MODES)
DENSE = "dense"
SEEDS = 2**63  # A seed lies below: the tables hold it in 64 bits with a sign.
WAFER = "CSX"  # the device of a training on a CS-3, and of nothing else
MEASURED, OUT_OF_MEMORY = "measured", "out of memory"  # what became of a batch size
SKIPPED = "skipped: a smaller batch did not fit"
TABLES = (
    "summary", "grouped_summary", "sparsity_vs_performance", "comparisons", "best_tradeoffs", "layer_sparsity", "missing",
)  # fmt: skip

PAGES = ("EXPERIMENTS.md", "correctness_memo.md")
FINDINGS = "findings.txt"  # what the terminal shows of a study
REPORT = "report.html"  # the results page
REPORT_PARTS = "lib/sparseft/analysis/templates"  # what the results page is made of

# The same expressions constrain Snakemake's wildcards and parse a run_id. No name holds a '-'.
WILDCARDS = {
    "model": r"[A-Za-z0-9_][A-Za-z0-9_.]*",
    "task": r"[a-z0-9_]+",
    "method": rf"(?:{'|'.join((DENSE, *METHODS))})",
    "sparsity": r"[0-9]{2}",
    "mode": rf"(?:{'|'.join(MODES)})",
    "seed": r"(?:0|[1-9][0-9]{0,18})",
    "program": r"[A-Za-z0-9_.-]+",
    "batch_size": r"[1-9][0-9]*",
}
CELL_ID = "{model}-{task}-{method}-sparsity{sparsity}-{mode}"
RUN_ID = f"{CELL_ID}-seed{{seed}}"


@dataclass(frozen=True, order=True)
class Cell:
    """One cell of the grid; `sparsity` in percent of the prunable weights."""

    model: str
    task: str
    method: str
    sparsity: int
    mode: str
    pattern: ClassVar[str] = CELL_ID

    @property
    def id(self) -> str:
        """The name, by which its files are called."""
        return fill(self.pattern, self)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the cell or run that has this `id`. Raises InputError on another name."""
        regex = cls.pattern.format(**{key: f"(?P<{key}>{value})" for key, value in WILDCARDS.items()})
        match = re.fullmatch(regex, name)
        if not match or int(match.groupdict().get("seed", 0)) >= SEEDS:
            raise InputError(f"{name!r} is not the name of a {cls.__name__.lower()}", f"write {cls.pattern}")
        return cls(
            **{key: int(value) if key in ("sparsity", "seed") else value for key, value in match.groupdict().items()}
        )


@dataclass(frozen=True, order=True)
class Run(Cell):
    """A cell's training from one seed; its folder under results/runs/ has its name."""

    seed: int
    pattern: ClassVar[str] = RUN_ID


def split_method(method: str) -> tuple[str, str]:
    """A method -> (pattern, importance): magnitude where a name has none; random and dense have no importance.

    Raises InputError for an unknown method."""
    if method not in (DENSE, *METHODS):
        raise InputError(f"method {method!r} is unknown", f"choose one of {', '.join(METHODS)}")
    pattern, _, importance = method.partition("_")
    return pattern, importance or ("none" if method in (DENSE, "random") else "magnitude")


# Every path of the study, relative to its folder; {braces} are the wildcards above.
MODEL = "models/{model}"
MANIFEST = f"{MODEL}/manifest.json"
DATA = "data/{task}"
WIKITEXT2 = "data/wikitext2.txt"
WIKITEXT2_SOURCE = f"{WIKITEXT2}.json"  # its sha256, and where it comes from
MASKS = "masks/{model}"
TASK_MASKS = f"{MASKS}/{{task}}"
MASK_NAME = "masks_sparsity{sparsity}_{method}"
RUNS = "results/runs"
RUN = f"{RUNS}/{RUN_ID}"
THROUGHPUT = f"results/throughput/{CELL_ID}.json"
BATCH = f"results/throughput/{CELL_ID}/batch{{batch_size}}-seed{{seed}}"  # of a backend that measures each by itself
STOP = "results/logs/stop"  # left by a job that met a full disk, or quota
EXPORTED = "sparsity{sparsity}_{method}"
TRAINER_CONFIGURATION = f"config/modelzoo/{RUN_ID}.yaml"
PROGRAM = "results/programs/{program}"
ANALYSIS = "results/analysis"
CONFIGURATION = "configuration.yaml"  # beside the tables: the complete configuration of the study
THROUGHPUT_TABLE = f"{ANALYSIS}/throughput_vs_batch_size.csv"
THROUGHPUT_PLOTS = f"{ANALYSIS}/throughput_plots"


def mask_folder(method: str) -> str:
    """Where the masks of a method lie: apart for every task where the importance looks at its examples."""
    return TASK_MASKS if method in TASK_METHODS else MASKS


def mask_path(method: str) -> str:
    """The path of a method's masks."""
    return f"{mask_folder(method)}/{MASK_NAME}.pt"


def exported(method: str) -> str:
    """The folder of the masked ModelZoo checkpoints of a method: apart for every task where its masks are."""
    return f"modelzoo/{{model}}/{{task}}/{EXPORTED}" if method in TASK_METHODS else f"modelzoo/{{model}}/{EXPORTED}"


def fill(pattern: str, cell: Cell) -> str:
    """A path of a cell or a run: its keys in the place of the wildcards."""
    return pattern.format(**{**vars(cell), "sparsity": f"{cell.sparsity:02d}"})
