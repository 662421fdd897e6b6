"""Write run folders as the workflow leaves them: `write_run` writes one, `write_grid` a plausible study of any size."""

import hashlib
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sparseft.study.config import Training
from sparseft.study.grid import Run
from sparseft.tasks.scoring import choice_metrics, f1_standard_error, generated_metrics, ratio_error
from sparseft.tasks.wikitext2 import TEXT_SHA256

LAYERS = 210
PROJECTIONS = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
CPU = "CPU: AMD EPYC, 1 thread"
SCHEDULE = {
    **Training().model_dump(exclude={"steps", "batch_size"}),
    "train_examples": 480,
    "updates": 59,
}

# The sparsity at which half of the value is lost.
HALF_LOST = {"unstructured": 0.75, "structured": 0.4, "random": 0.3}


def digest(*words: object) -> str:
    """Return a stand-in for the sha256 of a file."""
    return hashlib.sha256("/".join(map(str, words)).encode()).hexdigest()


def pieces(run: Run, value: float, *, layers: int = 2, **changes: object) -> dict[str, dict]:
    """Return the content of the files of a sound run by name.

    `changes` may have: loss, loss_before, value_before, speed, examples, backend, device, batch_size, training (its settings),
    metrics (further ones), labels (a function of the outcomes), classes (True: yes and no are scored), generated, few_shot,
    distinct_prompts, overlap, definition (True: the task is not built in), by_loss (True: `value` is the loss, which is
    the metric), fractions (True: outcomes lie between 0 and 1), probes (values by name), start (the id of the run that a training
    starts from), selection (the value on the selection rows)."""
    if changes.get("by_loss"):
        before = changes.get("value_before", value)
        changes = {**changes, "loss": value, "loss_before": before, "definition": True}
    loss = changes.get("loss", 2.0)
    inputs = {"model": digest(run.model), "mask": digest(run.model, run.method, run.sparsity)}
    inputs["adapter"] = None if run.mode == "no_finetune" else digest(run.id, "adapter")
    merged = {"model.safetensors": digest(run.id, "merged")}
    data = {"data": digest(run.task, "validation"), "train": digest(run.task, "train")}
    evaluation = scored(run, value, loss, changes)
    evaluation["metrics"] |= changes.get("metrics", {})
    files = {
        "merge": {"inputs": dict(inputs), "outputs": dict(merged), "as_trained": False},
        "validation_report": {
            **validation_report(run, layers),
            "inputs": {"mask": inputs["mask"], "checkpoint": dict(merged), "base": inputs["model"]},
        },
        "evaluation": {
            **evaluation,
            "overlap": changes.get("overlap", 0.0),
            "device": changes.get("device", CPU),
            "inputs": {"model": dict(merged), **data, "wikitext2": TEXT_SHA256},
            **({"probes": probes(run, changes["probes"])} if "probes" in changes else {}),
        },
    }
    if "selection" in changes:
        files["selection"] = selection(run, changes["selection"], files["evaluation"], changes)
    if inputs["adapter"]:
        loss_before = changes.get("loss_before", loss)
        before = scored(run, changes.get("value_before", value), loss_before, changes)
        files["before_merge"] = {**before, "inputs": {**inputs, **data}}
        files["train"] = {
            **training(run, loss, loss_before, changes),
            **definition(run, changes),
            "inputs": {
                "model": inputs["model"],
                "mask": inputs["mask"],
                "train": data["train"],
                "validation": data["data"],
                **({"initial_adapter": digest(changes["start"], "adapter")} if "start" in changes else {}),
            },
            "outputs": {"adapter": inputs["adapter"]},
        }
    return files


def selection(run: Run, value: float, evaluation: dict, changes: dict) -> dict:
    """Return the content of selection.json of 80 examples, which fits the evaluation of the same run."""
    scores = scored(run, value, changes.get("loss", 2.0) + 0.125, {**changes, "examples": 80})
    inputs = {name: evaluation["inputs"][name] for name in ("model", "train")}
    rows = {"data": digest(run.task, "selection"), "validation": evaluation["inputs"]["data"]}
    return {
        "split": "selection",
        **scores,
        "prompt_sha256": digest(run.task, "selection prompts"),
        "overlap": 0.0,
        "device": changes.get("device", CPU),
        "inputs": inputs | rows,
    }


def training(run: Run, loss: float, loss_before: float, changes: dict) -> dict:
    """Return the content of train.json without its inputs and outputs: 480 examples in 60 steps."""
    speed = changes.get("speed", 4.0)
    batch_size = changes.get("batch_size", 8)
    return {
        "run_id": run.id,
        "backend": changes.get("backend", "torch"),
        "device": changes.get("device", CPU),
        "dtype": "bfloat16",
        "steps": 60,
        "updates": 59,
        "gradient": "exact",
        "processes": 1,
        **SCHEDULE,
        **changes.get("training", {}),
        "batch_size": batch_size,
        "train_seconds": 480 / speed,
        "final_loss": loss,
        "loss_curve": [{"loss": loss}] * 60,
        "tokens": 6000 * batch_size,
        "samples_per_second_overall": batch_size * speed / 8,
        "tokens_per_second_overall": 100 * batch_size * speed / 8,
        "eval_loss": loss_before,
        "peak_memory_bytes": 1_500_000_000,
        "samples_per_second": speed,
        "tokens_per_second": 100 * speed,
        "trainable_parameters": 4_884_480,
        "versions": {"torch": "2.13.0", "transformers": "5.0.0", "python": "3.11.9", "sparseft": "0.1.0"},
    }


def scored(run: Run, value: float, loss: float, changes: dict) -> dict:
    """Return what an evaluation has before and after a merge, without its inputs. Every number follows from its rows."""
    examples = changes.get("examples", 200)
    nats = losses(run, loss, examples)
    if changes.get("by_loss"):
        rows = by_loss(loss, nats, tokens(run, examples))
    elif changes.get("fractions"):
        rows = partly_right(outcomes(run, value, examples))
    else:
        hits = outcomes(run, value, examples)
        answers = generated(hits) if changes.get("generated") else chosen(hits, nats, changes)
        metric = "exact_match" if changes.get("generated") else "acc"
        rows = {"metric": metric, "value": value, "standard_error": standard_error(value, examples), "outcomes": hits}
        rows |= answers
    return {
        "task": run.task,
        **definition(run, changes),
        "examples": examples,
        "seconds": 12.5,
        "peak_memory_bytes": 1_250_000_000,
        "dtype": "bfloat16",
        "harness": "lm-eval 0.4.13",
        "prompt_sha256": digest(run.task, "prompts"),
        "few_shot": changes.get("few_shot", 0),
        "loss_few_shot": 0,
        "distinct_prompts": changes.get("distinct_prompts", examples),
        "eval_loss": loss,
        "losses": nats,
        "answer_tokens": tokens(run, examples).tolist(),
        **rows,
    }


def definition(run: Run, changes: dict) -> dict:
    """Return the digest of the definition of a task that is not built in."""
    return {"definition_sha256": digest(run.task, "definition")} if changes.get("definition") else {}


def by_loss(loss: float, nats: list[float], count: np.ndarray) -> dict:
    """Return the result of a task whose metric is the loss."""
    error = ratio_error(np.array(nats), count)
    metrics = {"loss": loss, "loss_stderr": error, "token_perplexity": float(np.exp(loss))}
    return {
        "metric": "loss",
        "value": loss,
        "standard_error": error,
        "chance": None,
        "harness": None,
        "metrics": metrics,
    }


def partly_right(hits: list[float]) -> dict:
    """Return generated answers that lm-eval scored between 0 and 1: a hit as 0.75 or 1, a miss as 0 or 0.25."""
    scores = [0.75 * hit + 0.25 * (number % 2) for number, hit in enumerate(hits)]
    value = float(np.mean(scores))
    error = float(np.std(scores, ddof=1) / len(scores) ** 0.5)
    return {
        "metric": "overlap",
        "value": value,
        "standard_error": error,
        "outcomes": scores,
        "labels": ["seven"] * len(hits),
        "generations": ["seven or so"] * len(hits),
        "predictions": ["seven or so"] * len(hits),
        "scored_by": "lm-eval",
        "metrics": {"overlap": value, "overlap_stderr": error},
        "chance": 0.0,
    }


def probes(run: Run, values: dict[str, float]) -> dict:
    """Return the results on probes of 100 examples each."""
    results = {}
    for name, value in values.items():
        probed = Run(**{**vars(run), "task": name})
        hits = outcomes(probed, value, 100)
        results[name] = {
            "metric": "acc",
            "value": value,
            "standard_error": standard_error(value, 100),
            "examples": 100,
            "outcomes": hits,
            **chosen(hits, losses(probed, 2.0, 100), {}),
            "data_sha256": digest(name, "validation"),
            "train_sha256": digest(name, "train"),
            "definition_sha256": digest(name, "definition"),
            "harness": "lm-eval 0.4.13",
            "few_shot": 0,
        }
    return results


def generated(hits: list[float]) -> dict:
    """Return the rows of generated answers. The right answer is always 7."""
    texts = ["So it is 7.\n#### 7" if hit else "#### 8" for hit in hits]
    return {
        "labels": ["3 + 4 = 7\n#### 7"] * len(hits),
        "generations": texts,
        "predictions": [text[-1] for text in texts],
        "metrics": generated_metrics(["#### 7"] * len(hits), texts),
        "chance": 0.0,
    }


def chosen(hits: list[float], nats: list[float], changes: dict) -> dict:
    """Return the rows of four choices. The right one has the row's loss; in a miss its neighbour is likelier."""
    labels = changes.get("labels", lambda hits: [number % 4 for number in range(len(hits))])(hits)
    predictions = [label if hit else label ^ 1 for hit, label in zip(hits, labels, strict=True)]
    logs = [[-2 * loss - 1.0] * 4 for loss in nats]
    for row, loss, label, prediction in zip(logs, nats, labels, predictions, strict=True):
        row[prediction] = -loss / 2
        row[label] = -loss
    lengths = [[5] * 4 for _ in hits]
    classes = ("no", "yes") if changes.get("classes") else ()
    metrics = choice_metrics(labels, logs, lengths, classes)
    if "f1" in metrics:
        metrics["f1_stderr"] = f1_standard_error(labels, logs)
    return {
        "labels": labels,
        "choice_lengths": lengths,
        "log_likelihoods": logs,
        "ties": 0,
        "predictions": predictions,
        "metrics": metrics,
        "chance": 0.25,
    }


def standard_error(value: float, examples: int) -> float:
    """Return the standard error of the mean of outcomes 0 and 1."""
    return (value * (1 - value) / (examples - 1)) ** 0.5


def random_of(name: str) -> np.random.Generator:
    """Return the random numbers that belong to a name."""
    return np.random.default_rng(int(digest(name)[:8], 16))


def tokens(run: Run, examples: int) -> np.ndarray:
    """Return the number of tokens of each answer, which depends on the task only."""
    return random_of(run.task).integers(1, 9, examples)


def losses(run: Run, mean: float, examples: int) -> list[float]:
    """Return the loss of each example, `mean` nats per token. It depends on the task, and a little on the run."""
    difficulty = random_of(run.task).random(examples)
    count = tokens(run, examples)
    shares = count * (0.5 + difficulty + 0.1 * random_of(run.id).random(examples))
    return (mean * count.sum() * shares / shares.sum()).tolist()


def outcomes(run: Run, value: float, examples: int) -> list[float]:
    """Return the outcome of each example. The easy ones of the task are right, and the run changes a few."""
    assert value * examples == pytest.approx(round(value * examples)), f"{value} is no share of {examples} examples"
    difficulty = random_of(run.task).random(examples)
    ranks = (difficulty + 0.3 * random_of(run.id).random(examples)).argsort().argsort()
    return [float(rank < round(value * examples)) for rank in ranks]


def validation_report(run: Run, layers: int) -> dict:
    """Return a report of `layers` sound layers, without its inputs."""
    rows = [
        {
            "layer": f"model.layers.{number // 7}.{PROJECTIONS[number % 7]}",
            "weights": 1000,
            "pruned": 10 * run.sparsity,
            "zeros": 10 * run.sparsity,
            "within_tolerance": 0,
            "violations": 0,
            "max_abs_pruned": 0.0,
        }
        for number in range(layers)
    ]
    sparsity = run.sparsity / 100 if layers else None
    return {
        "passed": True,
        "not_checked": [],
        "mask": {"scope": "layer", "method": run.method, "sparsity": run.sparsity / 100},
        "layers_checked": layers,
        "layers_expected": layers,
        "violations": 0,
        "max_abs_violation": 0.0,
        "tolerance": 0.0,
        "expected_sparsity": sparsity,
        "actual_sparsity": sparsity,
        "max_abs_pruned": 0.0,
        "sparsity_within_tolerance": sparsity,
        "tensors_outside_checked": 62,
        "tensors_outside_changed": [],
        "layers": rows,
    }


def write_pieces(folder: Path, run: Run, files: dict[str, dict]) -> Path:
    """Write the files of one run as `write_record` does, but without its layout, which takes most of the time. Return the folder."""
    place = folder / run.id
    place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = json.dumps(content).removesuffix("}")
        digest = hashlib.sha256(f"{text}\n}}".encode()).hexdigest()
        (place / f"{name}.json").write_text(f'{text},\n  "record_sha256": "{digest}"\n}}\n')
    return place


def write_grid(
    folder: Path, *, models: int, tasks: list[str], sparsities: list[int], seeds: int, layers: int = LAYERS
) -> int:
    """Write a whole study with values that fall with sparsity, and return its number of runs."""
    count = 0
    for model, task, seed in product(range(models), tasks, range(seeds)):
        cells = [("dense", 0, mode) for mode in ("no_finetune", "sparse_to_dense")]
        cells += list(product(HALF_LOST, sparsities, ("no_finetune", "sparse_to_dense", "sparse_to_sparse")))
        for method, sparsity, mode in cells:
            run = Run(f"Model{model}B", task, method, sparsity, mode, seed)
            kept = kept_share(method, sparsity, mode)
            noise = (int(digest(run.id)[:4], 16) / 65535 - 0.5) * 0.04
            changes = {"loss": 4 - 2.5 * kept + noise, "loss_before": 4 - 2.6 * kept, "speed": 4 + 10 * noise}
            value = round(200 * (0.25 + 0.4 * kept + noise)) / 200
            write_pieces(folder, run, pieces(run, value, layers=layers, **changes))
            count += 1
    return count


def kept_share(method: str, sparsity: int, mode: str) -> float:
    """Return the share of the dense model's value that a run keeps; fine-tuning recovers about half of what is lost."""
    pruned = 1 / (1 + (sparsity / 100 / HALF_LOST.get(method, 1)) ** 4)
    return pruned + (1 - pruned) * {"no_finetune": 0, "sparse_to_dense": 0.55, "sparse_to_sparse": 0.45}[mode]


@pytest.fixture(name="pieces")
def _pieces() -> Callable[..., dict[str, dict]]:
    return pieces


@pytest.fixture(name="write_grid", scope="session")
def _write_grid() -> Callable[..., int]:
    return write_grid


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return write_run(run_id, value, change=..., **changes), which writes a run under tmp_path/runs; `change` edits its files."""

    def write(
        run_id: str, value: float, *, change: Callable[[dict], None] = lambda files: None, **changes: object
    ) -> Path:
        run = Run.parse(run_id)
        files = pieces(run, value, **changes)
        change(files)
        return write_pieces(tmp_path / "runs", run, files)

    return write
