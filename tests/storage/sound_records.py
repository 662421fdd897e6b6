"""Hold a sound content of each record of a run, as the workflow leaves them, which a test may change."""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from sparseft.analysis.run_files import SCHEMAS as RUN_SCHEMAS
from sparseft.axes.grid import Cell, Run
from sparseft.evaluation.scoring import ratio_error
from sparseft.evaluation.throughput_record import MEASURED, OUT_OF_MEMORY, SKIPPED, ThroughputRecord
from sparseft.storage.record_file import RecordPart
from sparseft.training.settings import MEASURED_KEYS, Training

CPU = "CPU: AMD EPYC, 1 thread"
SCHEMAS = {Path(schema.file_name).stem: schema for schema in RUN_SCHEMAS.values()}


def digest(*words: object) -> str:
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()


def random_of(*words: object) -> np.random.Generator:
    """Return the random numbers that belong to some words."""
    return np.random.default_rng(int(digest(*words)[:8], 16))


def outcomes(run: Run, value: float, examples: int) -> list[float]:
    """Return the outcome of each example. The easy ones of the task are right, and the run changes a few."""
    ranks = (random_of(run.task).random(examples) + 0.3 * random_of(run.id).random(examples)).argsort().argsort()
    return [float(rank < round(value * examples)) for rank in ranks]


def scored(run: Run, value: float, loss: float, *, examples: int = 60, right: list[float] | None = None, by_loss=False):
    """Return what an evaluation has before and after a merge, without its inputs. `by_loss` makes the loss its
    metric."""
    tokens = random_of(run.task).integers(1, 9, examples)
    shares = tokens * (0.5 + random_of(run.task, "loss").random(examples) + 0.1 * random_of(run.id).random(examples))
    losses = loss * tokens.sum() * shares / shares.sum()
    right = outcomes(run, value, examples) if right is None else right
    accuracy = float(np.mean(right))
    headline = {"metric": "acc", "value": accuracy, "outcomes": right, "chance": 0.25, "harness": "lm-eval 1"}
    headline |= {"metrics": {"acc": accuracy, "acc_stderr": 0.0}, "standard_error": 0.0}
    if by_loss:
        error = ratio_error(losses, tokens)
        metrics = {"loss": loss, "loss_stderr": error}
        headline = {"metric": "loss", "value": loss, "standard_error": error, "chance": None, "harness": None}
        headline |= {"metrics": metrics, "definition_sha256": digest(run.task, "definition")}
    return headline | {
        "run_id": run.id,
        "task": run.task,
        "examples": examples,
        "few_shot": 0,
        "loss_few_shot": 0,
        "prompt_sha256": digest(run.task, "prompts"),
        "distinct_prompts": examples,
        "eval_loss": loss,
        "losses": losses.tolist(),
        "answer_tokens": tokens.tolist(),
        "device": CPU,
        "dtype": "float32",
        "seconds": 12.5,
        "peak_memory_bytes": 1_250_000_000,
    }


def pieces(run: Run, value: float, **changes) -> dict[str, dict]:
    """Return the content of the files of a sound run by name.

    `changes` may have: loss, gap (of the loss, by the merge), examples, right (outcomes), by_loss, probes (values by
    name), selection (the value on the selection rows) and start (the id of the run that the training starts from)."""
    loss = changes.get("loss", 2.0)
    rows = {name: changes[name] for name in ("examples", "right", "by_loss") if name in changes}
    adapter = digest(run.id, "adapter") if run.mode != "no_finetune" else None
    mask = digest(run.model, run.method, run.sparsity)
    inputs = {"model": digest(run.model), "mask": mask, "adapter": adapter}
    merged = {"model.safetensors": digest(run.id, "merged")}
    data = {"data": digest(run.task, "validation"), "train": digest(run.task, "train")}
    evaluation = scored(run, value, loss, **rows) | {"overlap": 0.0, "inputs": {"model": merged, **data}}
    evaluation["probes"] = {name: probe(run, name, value) for name, value in changes.get("probes", {}).items()}
    files = {
        "merge": {
            "run_id": run.id, "inputs": inputs, "outputs": merged, "as_trained": False, "seconds": 1.0,
            "scale": 2.0 if adapter else None, "layers_merged": 2,
        },
        "validation_report": validation(run, inputs, merged),
        "evaluation": evaluation,
    }  # fmt: skip
    if "selection" in changes:
        selection = scored(run, changes["selection"], loss + 0.125, examples=80)
        own = {"prompt_sha256": digest("selection"), "split": "selection", "overlap": 0.0}
        rows_of = {"data": digest(run.task, "selection"), "validation": data["data"]}
        files["selection"] = selection | own | {"inputs": evaluation["inputs"] | rows_of}
    if adapter:
        before = scored(run, value, loss - changes.get("gap", 0.0), **rows)
        files["before_merge"] = before | {"inputs": {**inputs, **data}}
        files["train"] = training(run, loss, inputs, data, changes)
    return files


def diverge(files: dict[str, dict], windows: Sequence[float], text: str = "windows") -> None:
    """Give the evaluation of a run these divergences of the windows of a text."""
    error = float(np.std(windows, ddof=1) / len(windows) ** 0.5)
    measured = {"divergence": float(np.mean(windows)), "divergence_standard_error": error, "same_top_tokens": 0.5}
    files["evaluation"] |= {"divergences": list(map(float, windows)), **measured}
    files["evaluation"]["inputs"]["divergence"] = digest(text)


def probe(run: Run, name: str, value: float) -> dict:
    probed = Run(**{**vars(run), "task": name})
    names = ("metric", "value", "standard_error", "outcomes", "chance", "metrics", "harness", "examples", "few_shot")
    answers = scored(probed, value, 2.0, examples=40)
    digests = {f"{split}_sha256": digest(name, split) for split in ("data", "train", "prompt")}
    return {name: answers[name] for name in names} | digests | {"overlap": 0.0}


def training(run: Run, loss: float, inputs: dict, data: dict, changes: dict) -> dict:
    """Return the content of train.json: 60 steps of 8 examples."""
    start = {"initial_adapter": digest(changes["start"], "adapter")} if "start" in changes else {}
    return {
        **Training(steps=60, batch_size=8).model_dump(exclude={"micro_batch_size"}),
        "run_id": run.id, "micro_batch_size": 8, "backend": "torch", "device": CPU, "dtype": "float32", "processes": 1,
        "train_examples": 480, "validation_examples": 60, "updates": 59, "train_seconds": 120.0, "final_loss": loss,
        "loss_curve": [{"step": step, "loss": loss} for step in range(1, 61)], "eval_curve": [], "eval_loss": loss,
        "tokens": 48_000, "samples_per_second": 4.0, "samples_per_second_overall": 4.0, "tokens_per_second": 400.0,
        "tokens_per_second_overall": 400.0, "resumed_after_steps": [], "peak_memory_bytes": 1_500_000_000,
        "trainable_parameters": 4_884_480, "versions": {"torch": "2.13.0", "sparseft": "0.2.0"},
        "inputs": {"model": inputs["model"], "mask": inputs["mask"], "train": data["train"],
                   "validation": data["data"], **start},
        "outputs": {"adapter": inputs["adapter"]},
        "definition_sha256": digest(run.task, "definition") if changes.get("by_loss") else None,
    }  # fmt: skip


def check_engines(files: dict[str, dict]) -> None:
    """Add the check of vLLM to the records of a run: its two repeats are 1.5 and 2.5 times as fast as the dense
    model."""
    result = {
        "engine": "vllm", "version": "0.32.0",
        "peak_memory_kind": "resident", "clock": "CPU", "cpu_share": 0.9, "same_tokens": 1.0, "difference": 0.001,
        "perplexity_difference": 0.001, "bound": 0.05,
    }  # fmt: skip
    merged = files["validation_report"]["inputs"]["checkpoint"]
    files["engines"] = {
        "run_id": files["evaluation"]["run_id"], "passed": True, "device": CPU, "threads": 1, "dtype": "bfloat16",
        "gguf": None,
        "prompts": 8, "prompt_tokens": 128, "new_tokens": 32, "repeats": 2,
        "results": [
            result | {"model": model, "tokens_per_second": speed, "first_token_seconds": first,
            "peak_memory_bytes": memory}
            for model, speed, first, memory in (
                ("dense", 20.0, 0.5, 10**9), ("run", 30.0, 0.2, 9 * 10**8), ("dense", 40.0, 0.5, 10**9),
                ("run", 100.0, 0.3, 8 * 10**8),
            )
        ],
        "inputs": {"dense": digest("m"), "export": digest("export"), "model": merged, "data": digest("t", "data")},
    }  # fmt: skip


def validation(run: Run, inputs: dict, merged: dict) -> dict:
    """Return a report of two sound layers of 1,000 weights."""
    row = {"weights": 1000, "pruned": 10 * run.sparsity, "zeros": 10 * run.sparsity, "kept_zeros": 0}
    row |= {"within_tolerance": 0, "violations": 0, "max_abs_violation": 0.0, "max_abs_pruned": 0.0}
    share = run.sparsity / 100
    return {
        "run_id": run.id, "passed": True, "not_checked": [], "layers_not_checked": [], "mask_of_base": True,
        "mask": {"scope": "layer", "method": run.method, "sparsity": share, "base": inputs["model"]},
        "layers_checked": 2, "layers_expected": 2, "violations": 0, "max_abs_violation": 0.0, "max_abs_pruned": 0.0,
        "tolerance": 0.0, "expected_sparsity": share, "actual_sparsity": share, "sparsity_within_tolerance": share,
        "tensors_outside_checked": 62, "tensors_outside_changed": [],
        "parameters": 9000 - 10 * run.sparsity, "bytes": 20_000,
        "layers": [{"layer": f"model.layers.{number}.mlp.up_proj", **row} for number in range(2)],
        "inputs": {"mask": inputs["mask"], "checkpoint": merged, "base": inputs["model"]},
    }  # fmt: skip


def measured(name: str, repeats: int = 3) -> dict:
    """Return a measurement of batch sizes 4 and 8 of a cell. 16 does not fit, and 32 was not tried.

    Repeat r has a speed of (r + 1) * size samples per second."""
    batches = []
    for size in (4, 8):
        own = [
            {"seconds": 2 / (repeat + 1), "samples": 2 * size, "tokens": 20 * size, "padded_tokens": 30 * size}
            | {"peak_memory_bytes": 10**9 + repeat * 10**8, "cpu_share": 1 - repeat / 4, "dtype": "bfloat16"}
            for repeat in range(repeats)
        ]
        batches.append({"batch_size": size, "status": MEASURED, "reason": None, "repeats": own})
    batches += [{"batch_size": size, "status": status, "reason": reason, "repeats": []}
                for size, status, reason in ((16, OUT_OF_MEMORY, "killed"), (32, SKIPPED, None))]  # fmt: skip
    model, task, method, sparsity = name.split("-")[:4]
    mask = digest(model, method, int(sparsity.removeprefix("sparsity")))
    return Training().model_dump(exclude=MEASURED_KEYS) | {
        "cell": name, "backend": "torch", "device": CPU, "threads": 1, "processes": 1, "versions": {},
        "sequence_length": None, "warmup_steps": 1, "steps": 2, "repeats": repeats, "batches": batches,
        "memory_limit_bytes": 2 * 10**9, "memory_limit_kind": "private", "peak_memory_kind": "resident",
        "batch_sizes": [16, 4, 8, 32], "inputs": {"model": digest(model), "mask": mask, "train": digest(task, "train")},
    }  # fmt: skip


RUN = Run.parse("m-t-unstructured-sparsity50-sparse_to_dense-seed0")
CELL = Cell.parse(RUN.id.removesuffix("-seed0")).id
_FILES = pieces(RUN, 0.5, probes={"p": 0.5}, selection=0.5)
check_engines(_FILES)
CONTENTS: dict[type[RecordPart], dict] = {SCHEMAS[name]: content for name, content in _FILES.items()}
CONTENTS[ThroughputRecord] = measured(CELL)


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
