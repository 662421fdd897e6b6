"""Name the runs of a study, and the paths that its jobs share. A record in the folder of a run is named where it is
defined.

A run is one cell of model x task x method x sparsity x mode x training, trained from one seed. The dense runs (sparsity
00) do not depend on the method, so their method is called `dense`, and the curves of all methods share them. At
sparsity 00, `sparse_to_dense` is plain LoRA, and `no_finetune` is the original model.

A training is a name in `grid.trainings`. If the study names none, its only training is "", which appears in no name and
no path. Runs that are not trained have the training "" too.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from sparseft.axes import methods, modes
from sparseft.common.errors import InputError
from sparseft.common.section import SEEDS

METHODS = tuple(methods.METHODS)
EXAMPLE_METHODS = tuple(name for name, method in methods.METHODS.items() if method.uses_examples)
DENSE = methods.DENSE.name
# An expression for the names of the methods whose masks another tool made. There is one for every name of its
# checkpoints.
IMPORTED_METHOD = rf"{methods.IMPORTED.name}_{methods.TEXT_NAME}"


def _expression(has_pruned_base: bool) -> str:
    """Return an expression for the methods of this project that have a pruned base, or for those that have none.

    It also matches a text behind a method that looks at none, which `get_method` refuses."""
    names = [name for name, method in methods.METHODS.items() if method.has_pruned_base == has_pruned_base]
    return rf"(?:{'|'.join(names)})(?:{methods.ON}{methods.TEXT_NAME})?"


# The methods that the configuration names: variants of methods on texts, one for every name of a text, and imported
# checkpoints.
NAMED_METHOD = rf"(?:{'|'.join(EXAMPLE_METHODS)}){methods.ON}{methods.TEXT_NAME}|{IMPORTED_METHOD}"
# Those with a pruned base have a job per sparsity.
PRUNING_METHOD, MASKING_METHOD = _expression(True), _expression(False)
MODES = tuple(mode.name for mode in modes.MODES)
NO_FINETUNE = modes.NO_FINETUNE.name
TRAINED_MODES = tuple(mode.name for mode in modes.MODES if mode.is_trained)
# The trained modes by what trains: a training on the task, or the reconstruction of the decoder layers.
TASK_MODES = tuple(mode.name for mode in modes.MODES if mode.learns_task)
# Of the former, those that train weights, and those that train new adapters.
FULL_MODES = tuple(mode.name for mode in modes.MODES if mode.is_full)
LORA_MODES = tuple(name for name in TASK_MODES if name not in FULL_MODES and not modes.get_mode(name).starts_from)
RECONSTRUCTING_MODES = tuple(mode.name for mode in modes.MODES if mode.reconstructs)
# The files of the analysis: its tables, and two views of its results page.
TABLES = (
    "summary.csv",
    "grouped_summary.csv",
    "comparisons.csv",
    "sparsity_vs_performance.csv",
    "settings.csv",
    "missing.csv",
)
PAGES = ("EXPERIMENTS.md", "correctness_memo.md")
# The text that the terminal shows at the end of a study.
FINDINGS = "findings.txt"
# The results page.
REPORT = "report.html"

# The folder of a study's own results. A name must not be that of a folder in results/.
RESULTS = r"results(?:/(?!(?:runs|throughput|logs|benchmarks|analysis|ship)$)[A-Za-z0-9_][A-Za-z0-9_.]{0,99})?"
# The name of a training. It must not be the end of a run's name, or the name of a run could also be that of a cell.
TRAINING = r"(?!seed[0-9])[A-Za-z0-9_.]+"
# The same expressions constrain Snakemake's wildcards and parse a run_id. No value contains a '-', except of a
# training, which has one before its name and is empty for the training "".
WILDCARDS = {
    "model": r"[A-Za-z0-9_][A-Za-z0-9_.]*",
    "task": r"[a-z0-9_]+",
    "method": rf"(?:{'|'.join((DENSE, *METHODS, NAMED_METHOD))})",
    "sparsity": r"[0-9]{2}",
    "mode": rf"(?:{'|'.join(MODES)})",
    "training": rf"(?:-{TRAINING})?",
    "seed": r"(?:0|[1-9][0-9]{0,9})",
    "batch_size": r"[1-9][0-9]*",
    "text": methods.TEXT_NAME,
    # The folder of masks that depend on a task's examples, below those of their model. Other masks have none.
    "task_folder": r"(?:/[a-z0-9_]+)?",
    # The model that samples the rows of a task, after a hyphen. Other tasks have none.
    "sampler": r"(?:-[A-Za-z0-9_][A-Za-z0-9_.]*)?",
}
CELL_ID = "{model}-{task}-{method}-sparsity{sparsity}-{mode}{training}"
RUN_ID = f"{CELL_ID}-seed{{seed}}"


def training_name(wildcard: str) -> str:
    """Return the name of a training from the wildcard `training` of a job. A name by itself stays as it is."""
    return wildcard.removeprefix("-")


@dataclass(frozen=True, order=True)
class Cell:
    """Identify one cell of the grid. `sparsity` is in percent of the prunable weights."""

    model: str
    task: str
    method: str
    sparsity: int
    mode: str
    # The last argument, because most cells need none. In the order of the cells it stands where it is written here.
    training: str = field(default="", kw_only=True)
    pattern: ClassVar[str] = CELL_ID

    @property
    def id(self) -> str:
        """Return the name of the cell or run, which is also the name of its files."""
        return fill(self.pattern, self)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the cell or run that has this `id`. Raises InputError if there is none."""
        regex = cls.pattern.format(**{key: f"(?P<{key}>{value})" for key, value in WILDCARDS.items()})
        match = re.fullmatch(regex, name)
        values: dict[str, Any] = match.groupdict() if match else {}
        is_untrained = values.get("mode") == NO_FINETUNE and values["training"]
        if not match or is_untrained or int(values.get("seed", 0)) >= SEEDS:
            written = cls.pattern.replace("{training}", "[-{training}]")
            raise InputError(f"{name!r} is not the name of a {cls.__name__.lower()}", f"write {written}")
        values["training"] = training_name(values["training"])
        values |= {key: int(values[key]) for key in ("sparsity", "seed") if key in values}
        return cls(**values)


@dataclass(frozen=True, order=True)
class Run(Cell):
    """Identify the training of a cell from one seed. Its folder among the runs has its name."""

    seed: int
    pattern: ClassVar[str] = RUN_ID


def start_of(run: Run, recover_on: str | None) -> Run | None:
    """Return the run whose training a training continues; None if it starts from the pruned model.

    recover_on: the task in `training.recover_on`"""
    mode = modes.get_mode(run.mode)
    if mode.starts_from:
        return replace(run, mode=mode.starts_from)
    return replace(run, task=recover_on) if recover_on and mode.learns_task and recover_on != run.task else None


# The paths of the study, relative to the study's folder. The names in braces are the wildcards above.
MODEL = "models/{model}"
MANIFEST = f"{MODEL}/manifest.json"
# A task whose rows a model samples has a folder per model, with the model behind a hyphen.
DATA = "data/{task}"
WIKITEXT2 = "data/wikitext2.txt"
# The documents of a text on which importances calibrate. It is no folder, so that no task can have the same place.
CALIBRATION = "data/calibration_{text}.jsonl"
# The windows of a text that a model samples, and those of a mixture, as token ids of the model. The task's examples may
# be a part.
SAMPLED = "data/calibration_{text}-{model}.jsonl"
MIXED = "data/calibration_{text}-{model}{task_folder}.jsonl"
MASKS = "masks/{model}"
MASK_NAME = "masks_sparsity{sparsity}_{method}"
# The pruned base of a method that updates weights or writes a smaller model.
PRUNED_BASES = "pruned/{model}"
PRUNED_NAME = "sparsity{sparsity}_{method}"
# The masked checkpoints of ModelZoo.
EXPORTED = "modelzoo/{model}"
TRAINER_CONFIGURATION = f"config/modelzoo/{RUN_ID}.yaml"
# The complete configuration of the study, beside the tables.
CONFIGURATION = "configuration.yaml"


class ResultPaths:
    """Name what a study has for itself, relative to the study's folder. Everything else is shared with other
    studies."""

    def __init__(self, folder: str = "results") -> None:
        """Set the paths in a results folder. The names in braces are the wildcards above."""
        self.folder = folder
        self.runs = f"{folder}/runs"
        self.run = f"{self.runs}/{RUN_ID}"
        self.throughput = f"{folder}/throughput/{CELL_ID}.json"
        # For backends that measure each batch size in a job of its own.
        self.batch = f"{folder}/throughput/{CELL_ID}/batch{{batch_size}}-seed{{seed}}"
        self.logs = f"{folder}/logs"
        # A job that finds the disk full writes this file.
        self.stop = f"{self.logs}/stop"
        self.benchmarks = f"{folder}/benchmarks"
        self.analysis = f"{folder}/analysis"
        self.throughput_table = f"{self.analysis}/throughput_vs_batch_size.csv"
        self.throughput_plots = f"{self.analysis}/throughput_plots"
        # What `snakemake ship` finds.
        self.ship = f"{folder}/ship/{{model}}"

    def trained(self, run: Run | None) -> list[str]:
        """Return the folder of what the training of a run hands on; nothing without a run or a training."""
        part = modes.get_mode(run.mode).trains if run else ""
        return [f"{fill(self.run, run)}/{part}"] if run and part else []


def of_modes(path: str, modes: Iterable[str]) -> str:
    """Return a path with wildcards, which then matches only the runs of some modes."""
    return path.replace("{mode}", f"{{mode,{'|'.join(modes)}}}")


def mask_folder(method: str) -> str:
    """Return the folder of a method's masks, with wildcards."""
    return MASKS + _task_folder(method)


def _task_folder(method: str) -> str:
    """Return the last part of a method's folders. What depends on a task's examples has a folder per task."""
    return "/{task}" if methods.get_method(method).uses_task else ""


def mask_path(method: str) -> str:
    """Return the path of a method's masks, with wildcards."""
    return f"{mask_folder(method)}/{MASK_NAME}.pt"


@dataclass(frozen=True)
class PassFiles:
    """Hold the paths of a pass: a mask per sparsity, the report, its plot, and the pruned base of a method that has
    one."""

    masks: list[Path]
    report: Path
    plot: Path | None = None
    base: Path | None = None

    def outputs(self) -> list[Path]:
        """Return the outputs of a rule, the report first. A manifest is written last, so it stands for the whole
        base."""
        others = [self.plot, self.base and self.base / "manifest.json"]
        return [self.report, *self.masks, *filter(None, others)]


def pass_files(
    folder: Path | str,
    method: str,
    sparsities: list[str],
    pruned: Path | str | None = None,
    *,
    ending: str = "pt",
    has_plot: bool = True,
    is_added: bool = False,
) -> PassFiles:
    """Return the paths of a pass whose masks are in `folder`, and whose base, if it has one, is in the folder `pruned`.

    `sparsities` are in percent, as two digits each. A pass that has a base or is added to another one has one sparsity,
    which is in the names of its report and its plot."""
    names = [{"sparsity": sparsity, "method": method} for sparsity in sparsities]
    name = f"{method}_sparsity{sparsities[0]}" if pruned or is_added else method
    return PassFiles(
        masks=[Path(folder, f"{MASK_NAME.format(**parts)}.{ending}") for parts in names],
        report=Path(folder, f"report_{name}.json"),
        plot=Path(folder, f"plots/sparsity_{name}.png") if has_plot else None,
        base=Path(pruned, PRUNED_NAME.format(**names[0])) if pruned else None,
    )


def base_folder(method: str) -> str:
    """Return the folder of the weights from which the runs of a method start, with wildcards.

    It is the model, or the pruned base of the method."""
    if not methods.get_method(method).has_pruned_base:
        return MODEL
    return f"{PRUNED_BASES}{_task_folder(method)}/{PRUNED_NAME}"


def base_manifest(method: str) -> str:
    """Return the path of the manifest of a method's `base_folder`, with wildcards."""
    return f"{base_folder(method)}/manifest.json"


def exported(method: str) -> str:
    """Return the folder of a method's masked ModelZoo checkpoint, with wildcards."""
    return f"{EXPORTED}{_task_folder(method)}/{PRUNED_NAME}"


def fill(pattern: str, cell: Cell) -> str:
    """Return the path of a cell or a run, with its values in the place of the wildcards."""
    training = f"-{cell.training}" if cell.training else ""
    return pattern.format(**{**vars(cell), "sparsity": f"{cell.sparsity:02d}", "training": training})
