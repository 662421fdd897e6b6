"""Compare fine-tuning with and without the dense model as a teacher, with equal steps and in equal time.

    python benchmarks/distillation.py models/smollm2 --hellaswag DIR --work DIR [--seeds 3]

--hellaswag has train.jsonl and validation.jsonl of HellaSwag in its original fields. Each finished training and
evaluation is a file in --work. So you can stop the program at any time, and the same command continues. The variants of
a seed share the initial adapters and the batches. The time is that of the CPU, because the steps with and without a
teacher take turns.

With three seeds, it trains 36 models and evaluates 41. The table is written to benchmarks/results/distillation.md.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from bench import interleaved, report
from sparseft.analysis.statistics import Scores, compare, holm, interval, pooled_spread
from sparseft.axes.grid import MASK_NAME, MODEL, PRUNED_NAME, base_folder
from sparseft.axes.tasks import BY_NAME
from sparseft.common.command import run
from sparseft.data.prepared import read_splits
from sparseft.evaluation.evaluate import evaluate
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Batch, collate, encode
from sparseft.models.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.models.language_model.loss import AnswerLoss, teacher_logits
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.storage.atomic import write_json
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.training.job import TrainingJob
from sparseft.training.lora.merge import merge
from sparseft.training.settings import Distillation, Training
from sparseft.training.trained_part import model_to_train
from sparseft.training.trainers.torch import train
from torch import nn

TASK = BY_NAME["hellaswag"]
MODE = "sparse_to_sparse"
# Method and sparsity in percent.
PRUNINGS = (
    ("layers_block_influence_on_task", 20),
    ("structured_taylor_on_task", 30),
    ("unstructured_wanda", 60),
    ("unstructured_wanda", 70),
)
DISTILLATION = Distillation(weight=0.5, temperature=2.0)
SETTINGS = Training(steps=24, batch_size=4, learning_rate=1e-3, save_every=8)
# Training and validation examples, and those of the scores of the masks.
SIZES, CALIBRATION = (96, 128), 32
DENSE, UNTRAINED, PLAIN, EQUAL_STEPS, EQUAL_TIME = (
    "dense",
    "not trained",
    "plain",
    "taught, equal steps",
    "taught, equal time",
)
# Timed steps of each kind per pruning.
REPEATS = 5
# Cells at a time.
PROCESSES = 2
SCRIPTS = Path(__file__).parents[1] / "workflow/scripts"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cell:
    """Describe one model to train and evaluate: how it is pruned and trained. `work` has the data, the masks and the
    results."""

    method: str
    percent: int
    variant: str
    seed: int
    steps: int
    model: Path
    work: Path

    @property
    def mask(self) -> Path:
        """Return the path of the mask."""
        return self.work / f"masks/{MASK_NAME.format(sparsity=f'{self.percent:02d}', method=self.method)}.pt"

    @property
    def base(self) -> Path:
        """Return the folder of the weights that are trained: the model, or the pruned base of the method."""
        if base_folder(self.method) == MODEL:
            return self.model
        return self.work / "pruned" / PRUNED_NAME.format(sparsity=f"{self.percent:02d}", method=self.method)

    @property
    def settings(self) -> Training:
        """Return the schedule."""
        taught = DISTILLATION if self.variant in (EQUAL_STEPS, EQUAL_TIME) else None
        return SETTINGS.model_copy(update={"steps": self.steps, "distillation": taught})

    @property
    def place(self) -> Path:
        """Return the folder of the cell's files."""
        return self.work / "-".join(map(str, (self.method, self.percent, self.variant.replace(" ", "_"), self.seed)))

    def result(self) -> dict:
        """Return the result of each validation row, which is computed once."""
        path = self.place / "result.json"
        if not path.exists():
            write_json(path, measure(self))
        return json.loads(path.read_text())


def measure(cell: Cell) -> dict:
    """Train and merge a cell, and return whether each validation row is right, the losses, and their tokens."""
    limit_threads(1)
    keep_freed_memory()
    rows, _ = read_splits(cell.work / "data", TASK)
    with tempfile.TemporaryDirectory() as temporary:
        folder = cell.model if cell.variant == DENSE else Path(temporary, "merged")
        if cell.variant != DENSE:
            adapter = None if cell.variant == UNTRAINED else trained(cell, rows)
            merge(Checkpoint(cell.base), read_mask(cell.mask), sha256(cell.mask), adapter, folder)
        found = evaluate(*load_model(folder, CPU), TASK, rows, batch_size=32)
    return {name: found[name] for name in ("outcomes", "losses", "answer_tokens")}


def trained(cell: Cell, rows: dict) -> Path:
    """Train a cell, and return the folder of its adapter. A killed training continues from its saved state."""
    adapter, provenance = cell.place / "adapter", {"mask_sha256": sha256(cell.mask)}
    mask = read_mask(cell.mask)
    job = TrainingJob(Checkpoint(cell.base), mask, MODE, cell.seed, cell.settings, TASK, rows, 32, adapter, provenance)
    if cell.settings.distillation:
        job = replace(job, teacher=Checkpoint(cell.model))
    train(job, cell.place / "state.pt", Accelerator(cpu=True))
    return adapter


def step_times(cell: Cell) -> dict[str, float]:
    """Return the milliseconds of a step without and with a teacher, which take turns. They are measured once."""
    path = cell.work / f"times-{cell.method}-{cell.percent}.json"
    if not path.exists():
        torch.manual_seed(0)
        part, tokenizer = model_to_train(Checkpoint(cell.base), read_mask(cell.mask), MODE, SETTINGS, CPU)
        loss = part.loss
        teacher, _ = load_model(cell.model, CPU)
        rows, _ = read_splits(cell.work / "data", TASK)
        examples = encode(rows["train"], TASK, tokenizer, loss.model.config.max_position_embeddings)
        batch = collate(next(SETTINGS.batches(examples, 0)))
        steps = {name: partial(gradients, loss, own, batch)
                 for name, own in ((PLAIN, None), (EQUAL_STEPS, teacher))}  # fmt: skip
        write_json(path, interleaved(steps, REPEATS))
    return json.loads(path.read_text())


def gradients(loss: AnswerLoss, teacher: nn.Module | None, batch: Batch) -> None:
    """Compute the gradients of a step."""
    of_teacher = teacher_logits(teacher, batch) if teacher else None
    loss(batch, of_teacher, DISTILLATION.temperature).mean().backward()


def prepare(model: Path, hellaswag: Path, work: Path) -> None:
    """Write the rows, and the masks with their pruned bases, unless they are there."""
    data = work / "data"
    if not data.exists():
        numbers = dict(zip(("train_examples", "validation_examples"), SIZES, strict=True))
        call("prepare_task.py", task=TASK.name, local=hellaswag, output_dir=data, **numbers)
    for method, percent in PRUNINGS:
        cell = Cell(method, percent, UNTRAINED, 0, 0, model, work)
        if not cell.mask.exists():
            examples = {"task": TASK.name, "data_dir": data, "calibration_examples": CALIBRATION}
            places = {"model_path": model, "output_dir": cell.mask.parent}
            base = {} if cell.base == model else {"pruned_dir": cell.base.parent}
            call(
                "compute_masks.py",
                method=method,
                sparsity=f"0.{percent:02d}",
                is_added=True,
                **examples,
                **places,
                **base,
            )


def call(script: str, **flags: object) -> None:
    """Run a script of the project."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    subprocess.run([sys.executable, SCRIPTS / script, *words], check=True)


def cells_of(method: str, percent: int, seeds: int, model: Path, work: Path) -> list[Cell]:
    """Return the cells of one pruning, after its steps are timed."""
    untrained = Cell(method, percent, UNTRAINED, 0, 0, model, work)
    times = step_times(untrained)
    fewer = round(SETTINGS.steps * times[PLAIN] / times[EQUAL_STEPS])
    steps = {PLAIN: SETTINGS.steps, EQUAL_STEPS: SETTINGS.steps, EQUAL_TIME: fewer}
    trained = [
        replace(untrained, variant=name, steps=steps[name], seed=seed) for seed, name in product(range(seeds), steps)
    ]
    return [untrained, *trained]


def scores(cells: list[Cell], results: dict[Cell, dict]) -> tuple[Scores, Scores]:
    """Return what some cells that differ only in the seed score: the outcomes, and the losses of the answers."""
    seeds = tuple(cell.seed for cell in cells) if cells[0].steps else ()
    own = [results[cell] for cell in cells]
    tokens = np.array(own[0]["answer_tokens"], float)
    outcomes, losses = (np.array([result[name] for result in own], float) for name in ("outcomes", "losses"))
    return Scores(outcomes, seeds), Scores(losses, seeds, tokens)


def table(cells: list[Cell], results: dict[Cell, dict]) -> list[list[str]]:
    """Return a row per pruning and variant, with 95 % intervals, and each difference to the plain training.

    The p values are adjusted by Holm's method over all differences of the table."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.percent, cell.variant), []).append(cell)
    scored = {key: scores(group, results) for key, group in groups.items()}
    spreads = [pooled_spread([both[number] for both in scored.values()]) for number in (0, 1)]
    compared = [key for key in scored if key[2] in (EQUAL_STEPS, EQUAL_TIME)]
    differences = {
        key: [compare(own, plain, spread)
              for own, plain, spread in zip(scored[key], scored[(*key[:2], PLAIN)], spreads, strict=True)]
        for key in compared
    }  # fmt: skip
    adjusted = holm(np.array([[found.p_value for found in both] for both in differences.values()]).flatten())
    p_values = dict(zip(compared, adjusted.reshape(-1, 2), strict=True))
    rows = []
    for key, both in scored.items():
        row = [f"{key[0]} {key[1]} %" if key[1] else "", key[2], str(groups[key][0].steps)]
        for number, (score, spread) in enumerate(zip(both, spreads, strict=True)):
            row.append(words(score.value, *interval(score, spread)))
            difference = differences[key][number] if key in differences else None
            row += [words(*difference[:3]), f"{p_values[key][number]:.3f}"] if difference else ["", ""]
        rows.append(row)
    return rows


def words(value: float, low: float, high: float) -> str:
    """Return a value with its interval."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main(model_path: Path, *, hellaswag: Path, work: Path, seeds: int = 3) -> None:
    """Measure every cell that is not there yet, and report.

    Args:
        model_path: a prepared model folder
        hellaswag: folder of HellaSwag
        work: folder for the data, the masks and what is measured
        seeds: number of seeds
    """
    limit_threads(1)
    settings = [Checkpoint(model_path).digest, SETTINGS.model_dump(), DISTILLATION.model_dump(), SIZES, CALIBRATION]
    # Other settings have other results.
    folder = work / sha256_of_text(json.dumps(settings))[:12]
    folder.mkdir(parents=True, exist_ok=True)
    prepare(model_path, hellaswag, folder)
    cells = [Cell("dense", 0, DENSE, 0, 0, model_path, folder)]
    for method, percent in PRUNINGS:
        cells += cells_of(method, percent, seeds, model_path, folder)
    results = {}
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for cell, result in zip(cells, pool.imap(Cell.result, cells, chunksize=1), strict=True):
            results[cell] = result
            print(cell.method, cell.percent, cell.variant, cell.seed, np.mean(result["outcomes"]), flush=True)
    slower = []
    for method, percent in PRUNINGS:
        times = step_times(Cell(method, percent, UNTRAINED, 0, 0, model_path, folder))
        slower.append(f"{method} {percent} %: {times[EQUAL_STEPS] / times[PLAIN]:.2f}")
    report(
        "distillation",
        "Fine-tuning with the dense model as a teacher",
        [
            f"{model_path.name}, {TASK.name}: {SIZES[0]} training and {SIZES[1]} validation examples; {MODE},"
            f" {seeds} seeds",
            f"{SETTINGS.steps} steps of {SETTINGS.batch_size} examples, learning rate {SETTINGS.learning_rate}, r ="
            f" {SETTINGS.lora_r}; distillation with weight {DISTILLATION.weight} and temperature"
            f" {DISTILLATION.temperature}",
            f"CPU time of a step with a teacher, as a multiple of one without: {', '.join(slower)}",
            "loss: cross-entropy in nats per answer token, after the merge; differences: minus the plain training",
            "95 % intervals over seeds and examples (docs/statistics.md); p: paired, two-sided, with Holm's correction",
        ],
        ["pruning", "fine-tuning", "steps", TASK.metric, "difference", "p", "loss", "difference", "p"],
        table(cells, results),
    )


if __name__ == "__main__":
    run(main)
