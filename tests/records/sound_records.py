"""Hold a sound content of each record, which a test may change."""

from copy import deepcopy

from sparseft.records import throughput_record
from sparseft.records.engine_record import EnginesRecord
from sparseft.records.evaluation_record import BeforeMergeRecord, EvaluationRecord, SelectionRecord
from sparseft.records.merge_record import MergeRecord
from sparseft.records.record_file import RecordPart
from sparseft.records.throughput_record import ThroughputRecord
from sparseft.records.training_record import TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.study.schedule import Training

RUN = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"
CELL = RUN.removesuffix("-seed0")
FILES = {"model.safetensors": "merged", "config.json": "config"}

_ANSWERS = {
    "metric": "acc", "value": 0.5, "standard_error": 0.25, "examples": 4, "chance": 0.25, "few_shot": 0,
    "metrics": {"acc": 0.5, "acc_stderr": 0.25, "f1": None}, "harness": "lm-eval 0.4", "prompt_sha256": "prompts",
    "labels": [0, 1, 0, 1], "choice_lengths": [[3, 4]] * 4, "log_likelihoods": [[-1.0, -2.0]] * 4, "ties": 0,
    "predictions": [0] * 4, "outcomes": [1.0, 0.0, 1.0, 0.0],
}  # fmt: skip
_SCORED = _ANSWERS | {
    "run_id": RUN, "task": "t", "distinct_prompts": 4, "eval_loss": 2.0, "loss_few_shot": 0, "dtype": "float32",
    "losses": [1.0, 3.0, 2.0, 6.0], "answer_tokens": [1, 1, 2, 2], "device": "CPU", "seconds": 1.0,
    "peak_memory_bytes": 10**9,
}  # fmt: skip
_PROBE = _ANSWERS | {"data_sha256": "probe data", "train_sha256": "probe train", "overlap": 0.0}
_ROW = {
    "weights": 1000, "pruned": 500, "zeros": 500, "kept_zeros": 0, "within_tolerance": 0, "violations": 0,
    "max_abs_violation": 0.0, "max_abs_pruned": 0.0,
}  # fmt: skip
_REPEATS = [
    {"seconds": 1.0, "samples": 2 * size, "tokens": 20 * size, "padded_tokens": 30 * size, "peak_memory_bytes": 10**9,
     "cpu_share": 1.0, "dtype": "bfloat16"}
    for size in (4, 8)
]  # fmt: skip
_TRAINING = Training(steps=20, batch_size=4, micro_batch_size=4).model_dump()
_MEASURED = {name: _TRAINING[name] for name in _TRAINING if name in ThroughputRecord.model_fields and name != "steps"}

CONTENTS: dict[type[RecordPart], dict] = {
    TrainingRecord: _TRAINING | {
        "run_id": RUN, "train_examples": 8, "validation_examples": 4, "backend": "torch", "device": "CPU", "processes": 1,
        "dtype": "float32", "trainable_parameters": 10, "updates": 19, "eval_curve": [], "final_loss": 0.5,
        "loss_curve": [{"step": step, "loss": 1.0 if step < 19 else 0.5} for step in range(1, 21)], "eval_loss": 0.5,
        "tokens": 800,
        "samples_per_second": 8.0, "samples_per_second_overall": 8.0, "tokens_per_second": 80.0,
        "tokens_per_second_overall": 80.0, "train_seconds": 10.0, "peak_memory_bytes": 10**9, "resumed_after_steps": [],
        "versions": {"torch": "2.10"}, "outputs": {"adapter": "adapter"},
        "inputs": {"model": "base", "mask": "mask", "train": "train", "validation": "data"},
    },
    MergeRecord: {
        "run_id": RUN, "inputs": {"model": "base", "mask": "mask", "adapter": "adapter"}, "scale": 2.0, "layers_merged": 2,
        "as_trained": False, "outputs": FILES, "seconds": 1.0,
    },
    ValidationRecord: {
        "run_id": RUN, "passed": True, "not_checked": [], "layers_checked": 2, "layers_expected": 2,
        "layers_not_checked": [], "mask": {"method": "unstructured", "sparsity": 0.5, "scope": "layer"},
        "mask_of_base": True, "violations": 0, "max_abs_violation": 0.0, "max_abs_pruned": 0.0, "tolerance": 0.0,
        "expected_sparsity": 0.5, "actual_sparsity": 0.5, "sparsity_within_tolerance": 0.5,
        "tensors_outside_checked": 3, "tensors_outside_changed": [],
        "layers": [{"layer": f"layers.{number}", **_ROW} for number in range(2)],
        "inputs": {"mask": "mask", "checkpoint": FILES, "base": "base"},
    },
    EvaluationRecord: _SCORED | {
        "overlap": 0.0, "probes": {"p": _PROBE}, "inputs": {"model": FILES, "data": "data", "train": "train"},
    },
    SelectionRecord: _SCORED | {
        "overlap": 0.0, "split": "selection",
        "inputs": {"model": FILES, "data": "selection", "train": "train", "validation": "data"},
    },
    BeforeMergeRecord: _SCORED | {
        "inputs": {"model": "base", "mask": "mask", "adapter": "adapter", "data": "data", "train": "train"},
    },
    EnginesRecord: {
        "run_id": RUN, "passed": True, "device": "CPU", "threads": 1, "dtype": "bfloat16", "gguf": None, "prompts": 2,
        "prompt_tokens": 16, "new_tokens": 4, "repeats": 1,
        "results": [
            {"engine": engine, "version": "1.0", "model": model, "tokens_per_second": speed, "first_token_seconds": 0.5,
             "peak_memory_bytes": 10**9, "peak_memory_kind": "resident", "clock": "CPU", "cpu_share": 0.9, "same_tokens": 0.75,
             "difference": difference, "bound": 0.05}
            for engine, difference in (("transformers", 0.0), ("vllm", 0.05))
            for model, speed in (("dense", 20.0), ("run", 30.0))
        ],
        "inputs": {"dense": "base", "export": "export", "model": FILES, "data": "data"},
    },
    ThroughputRecord: _MEASURED | {
        "cell": CELL, "backend": "torch", "device": "CPU", "threads": 1, "processes": 1, "sequence_length": None,
        "warmup_steps": 1, "steps": 2, "repeats": 2, "memory_limit_bytes": 2 * 10**9, "memory_limit_kind": "private",
        "peak_memory_kind": "resident", "versions": {"torch": "2.10"}, "batch_sizes": [16, 4, 8, 32],
        "inputs": {"model": "base", "mask": "mask", "train": "train"},
        "batches": [
            *({"batch_size": size, "status": throughput_record.MEASURED, "reason": None, "repeats": [repeat] * 2}
              for size, repeat in zip((4, 8), _REPEATS, strict=True)),
            {"batch_size": 16, "status": throughput_record.OUT_OF_MEMORY, "reason": "killed", "repeats": []},
            {"batch_size": 32, "status": throughput_record.SKIPPED, "reason": None, "repeats": []},
        ],
    },
}  # fmt: skip


def changed(schema: type[RecordPart], **changes: object) -> dict:
    """Return the sound content of a record with changes, by the place of each value: `layers.0.zeros` is
    `layers__0__zeros`."""
    content = deepcopy(CONTENTS[schema])
    for place, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        piece = content
        for part in parents:
            piece = piece[part]
        piece[last] = value
    return content
