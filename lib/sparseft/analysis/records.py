"""The run folders, read and checked: what the analysis believes about a run is what five files say.

    train.json              the training; absent in mode no_finetune
    before_merge.json       the result before the merge; absent in mode no_finetune
    merge.json              hashes of what went into the merge and of what came out
    validation_report.json  every weight against the mask
    evaluation.json         the result

A run without a sound validation_report.json and evaluation.json is left out of every table; without a sound
train.json, before_merge.json or merge.json it stays, with blanks. Either way it becomes a `Gap` with the reason;
nothing is filled in. A run without a folder is a `Gap` too: where the configuration asks for it, or, without one, where the
runs beside it make it part of their grid. A file is sound if its fields have their types and ranges, and its numbers agree
with one another. The classes below name the fields that the analysis reads; a file may hold more.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from sparseft.analysis import recompute
from sparseft.analysis.recompute import ROUNDING
from sparseft.errors import InputError
from sparseft.storage.adapter_files import ADAPTER_FILES, adapter_digest
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_bytes
from sparseft.storage.record import remake_advice, unaltered
from sparseft.study.config import Config
from sparseft.study.config import Training as Schedule
from sparseft.study.grid import DENSE, MEASURED, NO_FINETUNE, OUT_OF_MEMORY, SKIPPED, Cell, Run, fill, mask_path
from sparseft.study.targets import runs as configured_runs
from sparseft.tasks.scoring import labels_digest
from sparseft.tasks.wikitext2 import PREFIXES, TEXT_SHA256, WIKITEXT2

Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(gt=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
Loss = Annotated[float, Field(ge=0, lt=1e6)]  # nats
LogLikelihood = Annotated[float, Field(le=0)]  # nats
Fraction = Annotated[float, Field(ge=0, le=1)]
Outcomes = Annotated[list[Fraction], AfterValidator(np.array)]
Losses = Annotated[list[Loss], AfterValidator(np.array)]
Numbers = Annotated[list[Number], AfterValidator(np.array)]
Rows = Annotated[list, AfterValidator(len)]  # how many: a study's log-likelihoods would fill the memory
# Keys of `training:` that leave every bit of the adapter as it is; the others decide it.
WITHOUT_EFFECT = {"eval_every", "save_every", "cache_weights", "gradient_checkpointing"}
DECIDING_KEYS = sorted(Schedule.model_fields.keys() - WITHOUT_EFFECT)


_EVIDENCE = ("predictions", "log_likelihoods", "labels", "choice_lengths", "generations")  # rows, dropped once checked
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class _Piece(BaseModel):
    model_config = _STRICT

    def contradictions(self) -> Iterable[str]:
        """Return what is wrong with the numbers taken together."""
        return ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if found := list(self.contradictions()):
            raise ValueError(", ".join(found))
        return self


P = TypeVar("P", bound=_Piece)


class _File(_Piece):
    run_id: str | None = None  # written where the script is told of a run at all


class TrainInputs(_Piece):
    """Hold the sha256 of what the training read; `validation` is the set that eval_loss was measured on."""

    model: str
    mask: str
    train: str
    validation: str


class TrainOutputs(_Piece):
    """sha256 of the adapter file."""

    adapter: str


class Training(_File):
    """Read train.json: the keys of `training:`, losses in nats per answer token, throughput without padding.

    `updates` counts the steps whose learning rate was above 0."""

    steps: Number
    batch_size: Number
    micro_batch_size: Number | Literal["auto"]
    learning_rate: Positive
    warmup_fraction: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    lora_r: Number
    lora_alpha: Positive
    lora_dropout: Fraction
    lora_targets: list[str]
    gradient: str
    shard_model: bool
    length_buckets: Number
    gradient_checkpointing: bool
    cache_weights: bool
    backend: str
    device: str
    dtype: str
    cerebras: dict[str, int | str | None] | None = None  # what decides a training on Cerebras' backends
    processes: Number
    updates: Count
    train_examples: Number
    loss_curve: Rows
    final_loss: Loss
    eval_loss: Loss
    samples_per_second: Positive
    samples_per_second_overall: Positive
    tokens_per_second: Positive
    train_seconds: Positive
    peak_memory_bytes: Number
    trainable_parameters: Number
    versions: dict[str, str]
    inputs: TrainInputs
    outputs: TrainOutputs

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the adapter, apart from the base, the mask and the seed."""
        schedule = {name: getattr(self, name) for name in DECIDING_KEYS}
        appliance = {f"cerebras.{name}": value for name, value in (self.cerebras or {}).items()}
        place = {"backend": self.backend, "dtype": self.dtype, "train.jsonl": self.inputs.train}
        return schedule | appliance | place

    def contradictions(self) -> Iterator[str]:
        samples = self.steps * self.batch_size
        rate = self.samples_per_second_overall
        if self.loss_curve != self.steps:
            yield f"{self.loss_curve} losses of {self.steps} steps"
        if self.updates > self.steps:
            yield f"{self.updates} updates in {self.steps} steps"
        if not math.isclose(rate * self.train_seconds, samples, rel_tol=ROUNDING):
            yield f"{samples} samples in {self.train_seconds:g} s are not {rate:g} a second"


class MergeInputs(_Piece):
    """Hold the digest of the base, and the sha256 of the mask and of the adapter (null if there is none)."""

    model: str
    mask: str
    adapter: str | None


class Merge(_File):
    """merge.json: `outputs` is file -> sha256 of the merged model.

    `as_trained`: whether the trained layers multiply by the merged weight itself (before_merge.py)."""

    inputs: MergeInputs
    as_trained: bool
    outputs: Annotated[dict[str, str], Field(min_length=1)]


class Layer(BaseModel):
    """Hold one row of the validation: how many weights were compared, are pruned by the mask, are zero, violate the mask.

    `within_tolerance` counts the pruned weights that are not zero and at most the tolerance; `max_abs_pruned` is the largest
    magnitude of any pruned weight."""

    model_config = _STRICT
    layer: str
    weights: Number
    pruned: Count
    zeros: Count
    within_tolerance: Count
    violations: Count
    max_abs_pruned: Annotated[float, Field(ge=0)]


def _columns(rows: list[Layer]) -> dict[str, np.ndarray]:
    """Return each field as an array, because a study has more rows than Python's objects bear."""
    return {name: np.array([getattr(row, name) for row in rows]) for name in Layer.model_fields}


class ValidationInputs(_Piece):
    """Hold the sha256 of the mask and of each checkpoint file, and the base's digest, as the validation read them."""

    mask: str
    checkpoint: dict[str, str]
    base: str | None


class Mask(_Piece):
    """Read what a mask says of itself. A setting that its method does not use is None."""

    scope: str
    method: str | None = None
    sparsity: Fraction | None = None  # asked for
    seed: int | None = None
    nm_group: int | None = None
    sequential: bool | None = None
    calibration_examples: int | None = None
    calibration_seed: int | None = None
    accumulated: str | None = None
    train_sha256: str | None = None  # of the examples that calibrated it

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the masks of the method, apart from the base."""
        named = {"method", "sparsity", "train_sha256"}
        calibration = {} if self.train_sha256 is None else {"calibration data": self.train_sha256}
        return self.model_dump(exclude=named) | calibration


class Validation(_File):
    """Read validation_report.json: sparsities are fractions of the prunable weights, None if no layer was checked.

    `actual_sparsity` counts exact zeros, `sparsity_within_tolerance` also the pruned weights up to the tolerance.
    `not_checked` holds a sentence for each thing that the validation leaves open."""

    passed: bool
    not_checked: list[str]
    mask_of_base: bool | None = None  # None without a base
    mask: Mask
    layers_checked: Count
    layers_expected: Count
    violations: Count
    max_abs_violation: float
    max_abs_pruned: Annotated[float, Field(ge=0)]
    tolerance: float
    expected_sparsity: Fraction | None
    actual_sparsity: Fraction | None
    sparsity_within_tolerance: Fraction | None
    tensors_outside_checked: Count
    tensors_outside_changed: list[str]
    layers: Annotated[list[Layer], AfterValidator(_columns)]
    inputs: ValidationInputs

    @property
    def weights(self) -> int:
        """How many weights were compared with the mask."""
        return int(self.layers["weights"].sum())

    def contradictions(self) -> Iterator[str]:
        layers, tolerated = self.layers, int(self.layers["within_tolerance"].sum())
        if (np.maximum(layers["pruned"], layers["zeros"]) > layers["weights"]).any():
            yield "a layer of more zeros than weights"
        if (layers["pruned"] - layers["violations"] - layers["within_tolerance"] > layers["zeros"]).any():
            yield "a layer whose pruned weights are neither zeros nor violations"
        if tolerated and self.tolerance == 0:
            yield f"{tolerated} pruned weights within a tolerance of 0"
        if layers["max_abs_pruned"].max(initial=0) != self.max_abs_pruned:
            yield f"max_abs_pruned {self.max_abs_pruned:g} is not the layers' largest"
        if self.max_abs_pruned > self.tolerance and not self.violations:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and 0 violations"
        if self.max_abs_pruned > 0 and not self.violations and not tolerated:
            yield f"a pruned weight of {self.max_abs_pruned:g}, and none within the tolerance"
        zeros = layers["zeros"].sum() + tolerated
        said = self.sparsity_within_tolerance
        if said is not None and not math.isclose(said * self.weights, zeros, rel_tol=ROUNDING):
            yield f"sparsity_within_tolerance {said:g} is not that of its layers, {zeros:,} of {self.weights:,}"
        if bool(self.not_checked) != (self.inputs.base is None or tolerated > 0):
            yield f"{len(self.not_checked)} sentences in not_checked, and {'no' if self.inputs.base is None else 'a'} base"


class EvaluationInputs(_Piece):
    """Hold the sha256 of each file of the evaluated model, of the two sets, and of the text of a perplexity.

    Worked examples come from `train`."""

    model: dict[str, str]
    data: str
    train: str
    wikitext2: str | None = None


class _Scored(_File):
    """Read the result of a model on the validation set: `metrics` are all that its task has, by name.

    By example, (examples,): `outcomes` of the headline metric, `losses` of the right answer, nats, and its `answer_tokens`.
    The other rows are the evidence, from which every number is computed again. Then they are dropped, because those of a
    whole study would fill the memory. `rows_digest` stays, for `recompute.check_rows`."""

    task: str
    metric: str
    value: Fraction
    standard_error: Fraction
    examples: Annotated[int, Field(gt=1, lt=2**63)]
    chance: Fraction
    eval_loss: Loss
    metrics: dict[str, float | None]
    outcomes: Outcomes
    losses: Losses
    answer_tokens: Numbers
    predictions: list[Count] | list[str]
    labels: list[Count] | list[str]
    choice_lengths: list[list[Number]] | None = None  # characters; a generated answer has no choices
    log_likelihoods: list[list[LogLikelihood]] | None = None
    ties: Count | None = None
    generations: list[str] | None = None
    _rows_digest: str = PrivateAttr("")
    harness: str
    dtype: str
    prompt_sha256: str
    distinct_prompts: Number
    few_shot: Count
    loss_few_shot: Count
    seconds: Positive
    peak_memory_bytes: Number | None = None  # older evaluations did not record it

    def contradictions(self) -> Iterator[str]:
        rows = {name: getattr(self, name) for name in ("outcomes", "losses", "answer_tokens", *_EVIDENCE)}
        counts = {name: len(values) for name, values in rows.items() if values is not None}
        for name, count in counts.items():
            if count != self.examples:
                yield f"{count} {name} of {self.examples} examples"
        for name, value in self.metrics.items():
            low, high = (1, math.inf) if name.startswith(PREFIXES) else (0, 1)
            if value is not None and not low <= value <= high:
                yield f"metrics.{name} is {value:g}"
        if (self.value, self.standard_error) != tuple(map(self.metrics.get, (self.metric, f"{self.metric}_stderr"))):
            yield f"value and standard_error are not metrics.{self.metric}'s"
        if not np.isin(self.outcomes, (0, 1)).all():
            yield "outcomes other than 0 and 1"
        if not math.isclose(self.outcomes.sum(), self.value * self.examples, rel_tol=ROUNDING):
            yield f"value {self.value:g} is not the mean of the outcomes"
        if not math.isclose(self.losses.sum(), self.eval_loss * self.answer_tokens.sum(), rel_tol=ROUNDING):
            yield f"eval_loss {self.eval_loss:g} is not the losses over the answer tokens"
        error = math.sqrt(self.value * (1 - self.value) / (self.examples - 1))
        if not math.isclose(self.standard_error, error, rel_tol=1e-6, abs_tol=ROUNDING):
            yield f"standard_error {self.standard_error:g} is not that of the outcomes, {error:g}"
        if set(counts.values()) == {self.examples}:
            yield from recompute.contradictions(self)

    @model_validator(mode="after")
    def _drop_evidence(self) -> Self:
        """Replace the evidence by its digest. Pydantic calls this after `_agrees`, which needs the evidence."""
        self._rows_digest = labels_digest(self.labels, self.choice_lengths)
        for name in _EVIDENCE:
            self.__dict__[name] = None  # the model is frozen for everybody else
        return self

    @property
    def rows_digest(self) -> str:
        """Return the digest of the right answers and choice lengths."""
        return self._rows_digest


class Evaluation(_Scored):
    """Read evaluation.json: the merged model. Its perplexity is on the text whose sha256 is inputs.wikitext2.

    `few_shot` worked examples stand before a question that is answered, `loss_few_shot` before one whose loss is taken."""

    train_overlap: Count
    device: str
    inputs: EvaluationInputs

    @property
    def settings(self) -> dict[str, object]:
        """Return by name what decides the result, apart from the model and the validation set."""
        found = {
            "dtype": self.dtype,
            "harness": self.harness,
            "few_shot": self.few_shot,
            "loss_few_shot": self.loss_few_shot,
        }
        if self.few_shot:
            found["worked examples"] = self.inputs.train
        if any(name.startswith(PREFIXES) for name in self.metrics):
            found["text"] = self.inputs.wikitext2
        return found

    @property
    def repeated_prompts(self) -> float:
        """Return the share of the validation prompts that repeat another one."""
        return 1 - self.distinct_prompts / self.examples

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        text = self.inputs.wikitext2
        for name in self.metrics:
            if name.startswith(PREFIXES) and (text is None or name.startswith(WIKITEXT2) != (text == TEXT_SHA256)):
                yield f"metrics.{name} is not named after its text"


class BeforeInputs(_Piece):
    """Hold the digest of the base, and the sha256 of the mask, of the adapter and of the two sets."""

    model: str
    mask: str
    adapter: str
    data: str
    train: str


class BeforeMerge(_Scored):
    """before_merge.json: the model as its training left it, on the same examples.

    `taken_from` names evaluation.json where the merge kept every bit, so that one evaluation serves both."""

    inputs: BeforeInputs
    taken_from: Literal["evaluation.json"] | None = None


class Repeat(_Piece):
    """One measurement of a batch size, in seconds of the timed steps."""

    seconds: Positive
    samples: Number
    tokens: Number
    padded_tokens: Number
    peak_memory_bytes: Count
    cpu_share: Annotated[float, Field(ge=0)] | None
    dtype: str

    @model_validator(mode="after")
    def _padded(self) -> Self:
        if self.tokens > self.padded_tokens:
            raise ValueError(f"{self.tokens} tokens, {self.padded_tokens} with padding")
        return self


class Batch(_Piece):
    """A batch size of a measurement; no repeats where it does not fit, and what the system said to it."""

    batch_size: Number
    status: Literal[MEASURED, OUT_OF_MEMORY, SKIPPED]
    reason: str | None
    repeats: list[Repeat]


class Measurement(_Piece):
    """results/throughput/*.json: the speed of a cell's training against the batch size.

    The two kinds say what the bytes of the peak and of the limit count: not the same, on a CPU. The backend cerebras has no
    limit: there a batch size that does not fit is not compiled, and no file is written."""

    cell: str
    device: str
    threads: Count
    processes: Number
    gradient: str
    sequence_length: int | None
    warmup_steps: Count
    steps: Annotated[int, Field(gt=0)]
    repeats: Annotated[int, Field(gt=0)]
    peak_memory_kind: str
    memory_limit_kind: str | None
    memory_limit_bytes: Count | None
    batch_sizes: list[int]
    batches: Annotated[list[Batch], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sizes = [batch.batch_size for batch in self.batches]
        if sizes != sorted(set(self.batch_sizes)):
            raise ValueError(f"batch sizes {sizes}, {self.batch_sizes} were asked for")
        if (self.memory_limit_bytes is None) != (self.memory_limit_kind is None):
            raise ValueError("a memory limit without its kind, or a kind without its bytes")
        order = [(MEASURED, OUT_OF_MEMORY, SKIPPED).index(batch.status) for batch in self.batches]
        if order != sorted(order) or order.count(1) != bool(order[-1]):
            raise ValueError("memory ends once, and no larger batch is measured")
        if order[-1] and self.memory_limit_bytes is None:
            raise ValueError("memory ended without a limit")
        for batch in self.batches:
            if len(batch.repeats) != (self.repeats if batch.status == MEASURED else 0):
                raise ValueError(f"batch size {batch.batch_size}: {batch.status}, with {len(batch.repeats)} repeats")
            if {repeat.samples for repeat in batch.repeats} - {batch.batch_size * self.steps}:
                raise ValueError(f"batch size {batch.batch_size}: a repeat of other than {self.steps} steps")
        if len({repeat.dtype for batch in self.batches for repeat in batch.repeats}) > 1:
            raise ValueError("repeats in several dtypes")
        return self


@dataclass(frozen=True)
class Record:
    """Hold one run with its sound pieces; `train`, `before` and `merge` are None where there is no sound one.

    `on_disk` holds the digests of the mask's and the adapter's files, taken while reading; a file that is not there has
    none. `rows` says how the right answers of the evaluation compare with the validation rows (recompute.check_rows)."""

    run: Run
    validation: Validation
    evaluation: Evaluation
    train: Training | None
    before: BeforeMerge | None
    merge: Merge | None
    on_disk: dict[str, str]
    rows: str

    @property
    def train_merge_gap(self) -> float | None:
        """Evaluation loss after the merge minus before it; 0 where the merge changes nothing but rounding."""
        return None if self.before is None else self.evaluation.eval_loss - self.before.eval_loss

    @property
    def train_merge_gap_value(self) -> float | None:
        """The metric after the merge minus before it."""
        return None if self.before is None else self.evaluation.value - self.before.value


@dataclass(frozen=True)
class Shared:
    """Hold what many runs of a study share: its folder, and what was read of masks and validation rows there."""

    study: Path
    masks: dict[Path, str] = field(default_factory=dict)
    rows: dict[Path, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gap:
    """A run with something missing or malformed; `left_out` when it is in no table."""

    run_id: str
    left_out: bool
    reason: str


_PIECES = {
    "train": ("train.json", Training),
    "before": ("before_merge.json", BeforeMerge),
    "merge": ("merge.json", Merge),
    "validation": ("validation_report.json", Validation),
    "evaluation": ("evaluation.json", Evaluation),
}


def read_runs(results_dir: Path, study: Config | None = None) -> tuple[list[Record], list[Gap]]:
    """Read every run folder; return the runs, and a gap for each run of the grid that is missing or unsound.

    The grid is that of `study`, or, without one, what the runs that are there make up. Raises InputError where not one run
    is complete."""
    if not results_dir.is_dir():
        raise InputError(f"{results_dir}: no such folder", "give the folder that holds the runs, or make them first")
    # A hidden folder is one that is still being written.
    folders = sorted(path for path in results_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    shared = Shared(study_folder(results_dir))
    read = [_read_folder(folder, shared) for folder in folders]
    records = [record for record, _ in read if record]
    gaps = [gap for _, gap in read if gap]
    expected = configured_runs(study) if study else _grid_of([record.run for record in records])
    asked = "the configuration asks for it" if study else "the grid of the other runs has it"
    for run in expected:
        if not (results_dir / run.id).is_dir():
            gaps.append(Gap(run.id, True, f"no such folder, though {asked}"))
    gaps.sort(key=lambda gap: gap.run_id)
    if not records:
        first = f" (the first: {gaps[0].run_id}: {gaps[0].reason})" if gaps else ""
        raise InputError(f"{results_dir}: {len(folders)} run folders, none complete{first}", "run the study first")
    return records, gaps


def read_measurements(paths: Iterable[Path]) -> list[Measurement]:
    """Files of results/throughput/. Raises InputError where one is none, or another cell's, or a second of its cell."""
    found: dict[str, Path] = {}
    measurements = []
    for path in paths:
        measurement = _read_piece(path, Measurement)
        if Cell.parse(measurement.cell).id != path.stem:
            raise InputError(f"{path.name}: belongs to cell {measurement.cell}", "make it again")
        if measurement.cell in found:
            raise InputError(f"{path}: the cell of {found[measurement.cell]} again", "give one of them")
        found[measurement.cell] = path
        measurements.append(measurement)
    return measurements


def files_digest(files: dict[str, str] | None) -> str | None:
    """Return one sha256 for a model: its file's, or that of what `sha256sum` prints for its files in order of their names."""
    if not files or len(files) == 1:
        return next(iter(files.values())) if files else None
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _read_folder(folder: Path, shared: Shared) -> tuple[Record | None, Gap | None]:
    """Return the record and the gap of a run folder. Any error in its files is a gap: it never ends the other runs' analysis."""
    try:
        return _read_run(folder, shared)
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return None, Gap(_in_one_line(folder.name), True, _in_one_line(reason))


def _in_one_line(text: str) -> str:
    """Return a text from outside with line breaks, and bytes that are not text, written as escapes."""
    return ascii(text)[1:-1]


def _read_run(folder: Path, shared: Shared) -> tuple[Record | None, Gap | None]:
    """Return the record and the gap of a run folder. Raises InputError if the folder has not the name of a run."""
    run = Run.parse(folder.name)
    if (run.method == DENSE) != (run.sparsity == 0):
        return None, Gap(run.id, True, f"not a run of the grid: sparsity 00 and method {DENSE} go together")
    pieces, reasons = {}, []
    for name, (file, schema) in _PIECES.items():
        pieces[name] = None
        if name in ("train", "before") and run.mode == NO_FINETUNE:
            continue
        try:
            pieces[name] = _read_piece(folder / file, schema)
        except InputError as error:
            reasons.append(str(error))
    if (folder / "adapter").is_dir():
        reasons += [f"adapter: no {name}" for name in ADAPTER_FILES if not (folder / "adapter" / name).is_file()]
    if unlike := _unlike(pieces["before"], pieces["merge"], pieces["evaluation"]):
        pieces["before"] = None
        reasons.append(unlike)
    foreign = _foreign(run, pieces)
    complete = bool(pieces["validation"] and pieces["evaluation"] and not foreign)
    reasons += foreign
    gap = Gap(run.id, not complete, " | ".join(reasons)) if reasons else None
    if not complete:
        return None, gap
    rows = _check_rows(pieces["evaluation"], shared)
    return Record(run, **pieces, on_disk=_on_disk(folder, run, shared), rows=rows), gap


def study_folder(results_dir: Path) -> Path:
    """Return the folder that holds masks/ and models/: two above the runs as the user names them, because a folder between
    may be a link."""
    return Path(os.path.normpath(results_dir / "../.."))


def _on_disk(folder: Path, run: Run, shared: Shared) -> dict[str, str]:
    """Return the digests of a run's mask and adapter, as far as their files are there."""
    mask = shared.study / fill(mask_path(run.method), run)
    adapter = folder / "adapter"
    found = {}
    if mask.is_file():
        if mask not in shared.masks:
            shared.masks[mask] = sha256(mask)
        found["mask"] = shared.masks[mask]
    if all((adapter / name).is_file() for name in ADAPTER_FILES):
        found["adapter"] = adapter_digest(adapter)
    return found


def _check_rows(evaluation: Evaluation, shared: Shared) -> str:
    """Return what sets the right answers of an evaluation apart from the rows that it names; "" where nothing does."""
    digest, data = evaluation.rows_digest, evaluation.inputs.data
    return recompute.check_rows(digest, data, evaluation.task, shared.study, shared.rows)


def _grid_of(runs: list[Run]) -> list[Run]:
    """Return the grid that `runs` make up: per model and task, methods x sparsities x modes x seeds.

    Dense runs form a grid apart from the pruned ones. Untrained runs need one seed, whatever seeds the trained ones have."""
    found = set()
    for model, task, dense in {(run.model, run.task, run.method == DENSE) for run in runs}:
        members = [run for run in runs if (run.model, run.task, run.method == DENSE) == (model, task, dense)]
        methods = {run.method for run in members}
        sparsities = {run.sparsity for run in members}
        for trained in (False, True):
            chosen = [run for run in members if (run.mode != NO_FINETUNE) == trained]
            modes = {run.mode for run in chosen}
            seeds = {run.seed for run in chosen}
            found |= {Run(model, task, *cell) for cell in product(methods, sparsities, modes, seeds)}
    return sorted(found)


def _read_piece(path: Path, schema: type[P]) -> P:
    mend = remake_advice(path)
    try:
        content = read_bytes(path)
        piece = schema.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path.name}: {error.strerror.lower()}", "make it again") from None
    except ValidationError as error:
        raise InputError(f"{path.name}: {_faults_of(error)}", mend) from None
    if not unaltered(content):
        raise InputError(f"{path.name}: altered since it was written", mend)
    return piece


def _faults_of(error: ValidationError) -> str:
    """Return the first three faults of a file in words. A file that lacks fields may be another version's, and is said so."""
    absent = [".".join(map(str, fault["loc"])) for fault in error.errors() if fault["type"] == "missing"]
    if absent:
        return f"it lacks {_first_three(absent)}, as if another version of SparseFT had written it"
    words = []
    for fault in error.errors():
        text = fault["msg"].lower().removeprefix("value error, ")
        words.append(" ".join([*map(str, fault["loc"]), text]))
    return _first_three(words)


def _first_three(words: list[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return ", ".join(words[:3]) + more


def _foreign(run: Run, pieces: dict[str, _File | None]) -> list[str]:
    """Return the pieces that name another run, task or mask, in words: a folder that was copied or renamed is not the run."""
    found = [
        f"{_PIECES[name][0]}: belongs to run {piece.run_id}"
        for name, piece in pieces.items()
        if piece and piece.run_id not in (None, run.id)
    ]
    found += [
        f"{_PIECES[name][0]}: belongs to task {piece.task}"
        for name, piece in pieces.items()
        if isinstance(piece, _Scored) and piece.task != run.task
    ]
    if validation := pieces["validation"]:
        method, sparsity = validation.mask.method, validation.mask.sparsity
        if method not in (None, run.method) or sparsity not in (None, run.sparsity / 100):
            found.append(f"validation_report.json: of a mask of {method} at {sparsity}")
    return found


def _unlike(before: BeforeMerge | None, merge: Merge | None, after: Evaluation | None) -> str | None:
    """Return in words why no gap can be taken between two results; None if one can."""
    if not before or not after:
        return None
    if before.taken_from and not (merge and merge.as_trained):
        return (
            "before_merge.json: taken from evaluation.json, and merge.json does not say that the merge kept every bit"
        )
    if before.taken_from and not np.array_equal(before.losses, after.losses):
        return "before_merge.json: taken from evaluation.json, and its losses are others"
    names = ("metric", "examples", "dtype", "harness", "few_shot", "loss_few_shot", "prompt_sha256")
    for name in names:
        ours, theirs = getattr(before, name), getattr(after, name)
        if ours != theirs:
            return f"before_merge.json: {name} is {ours}, in evaluation.json {theirs}"
    return None
