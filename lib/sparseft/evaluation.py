"""Evaluation by lm-eval as a library, on the prompts that training reads; gsm8k puts worked examples before its own.

The task's functions go into lm-eval's task definition as they are; its metrics, filters and standard errors are its
own (github.com/EleutherAI/lm-evaluation-harness). gsm8k's filters are those of its gsm8k.yaml, version 3.
"""

import hashlib
import json
import logging
import os
import sys
from collections import Counter
from contextlib import redirect_stdout
from importlib.metadata import version

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before datasets is imported: nothing is looked up on the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval's bootstrap: no copy of this process for a second of work

import numpy as np
from datasets import Dataset, disable_progress_bars
from lm_eval import simple_evaluate
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn
from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.tasks.source import overlap
from sparseft.tasks.task import Row, Task
from sparseft.training.batches import encode, refuse_longer
from sparseft.training.hardware import device_name
from sparseft.training.loss import AnswerLoss, answer_losses

_EXACT_MATCH = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "ignore_case": True,
    "ignore_punctuation": False,
    "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
}
_FILTERS = {
    "strict-match": {"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"},
    "flexible-extract": {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"},
}
BOOTSTRAP = 400  # resamples for the standard error of f1, which is thereby known to 4 %; the others have a formula


class StrictLM(HFLM):
    """lm-eval's model, which here refuses what it would cut in silence: a prompt longer than the context.

    Requests come in the order of the validation rows, whose number the refusal tells."""

    def loglikelihood(self, requests, *args, **options):
        longest = {}  # row -> tokens of its prompt with its longest choice
        for request in requests:
            tokens = sum(map(len, self._encode_pair(*request.args)))
            longest[request.doc_id] = max(longest.get(request.doc_id, 0), tokens)
        what = f"{requests[0].task_name}: validation prompts with their choices"
        refuse_longer(what, list(longest.values()), self.max_length)
        return super().loglikelihood(requests, *args, **options)

    def generate_until(self, requests, *args, **options):
        new = [options["max_gen_toks"] for _, options in (request.args for request in requests)]
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        what = f"{requests[0].task_name}: validation prompts with their worked examples and {max(new)} tokens for the answer"
        refuse_longer(what, [sum(pair) for pair in zip(lengths, new, strict=True)], self.max_length)
        return super().generate_until(requests, *args, **options)


def evaluate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, rows: dict[str, list[Row]], batch_size: int
) -> dict:
    """Score a model on rows["validation"]; returns evaluation.json's measured content.

    rows["train"] serves the few-shot examples where the task has any. eval_loss: nats per answer token. By row:
    outcomes (the headline metric), predictions (choices by number, or the extracted answers), log_likelihoods of
    the choices, nats, losses of the right answer, nats, and its answer_tokens.
    Raises InputError for too few rows (`Task.check`)."""
    task.check(rows)
    if batch_size < 1:
        raise InputError(f"an evaluation in batches of {batch_size}", "give a batch size of 1 or more")
    lm = StrictLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    metrics, by_row = _score(lm, task, rows)
    examples = encode(rows["validation"], task, tokenizer, model.config.max_position_embeddings)
    losses, tokens = answer_losses(AnswerLoss(model), examples, batch_size, model.device)
    return {
        "task": task.name,
        "metric": task.metric,
        "value": metrics[task.metric],
        "standard_error": metrics[f"{task.metric}_stderr"],
        "examples": len(rows["validation"]),
        "chance": task.chance,
        "eval_loss": float(losses.sum() / tokens.sum()),
        "metrics": metrics,
        "harness": f"lm-eval {version('lm-eval')}",
        "prompt_sha256": prompt_digest(task, rows["validation"]),
        "train_overlap": overlap(task, rows),
        "device": device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        **by_row,
        "losses": losses.tolist(),
        "answer_tokens": tokens.tolist(),
    }


def task_definition(task: Task, rows: dict[str, list[Row]]) -> dict:
    """lm-eval's definition of the task (docs/task_guide.md) over `rows`."""
    definition = {
        "task": task.name,
        "custom_dataset": lambda **_: {split: _dataset(task, examples) for split, examples in rows.items()},
        "training_split": "train",
        "validation_split": "validation",
        "fewshot_split": "train",
        "num_fewshot": task.few_shot,
        "doc_to_text": task.prompt,
        "target_delimiter": " ",
    }
    if task.choices is None:
        return definition | {
            "output_type": "generate_until",
            "doc_to_target": task.answer,
            "generation_kwargs": {
                "until": ["Question:", "</s>", "<|im_end|>"],
                "do_sample": False,
                "max_gen_toks": task.max_new_tokens,
            },  # fmt: skip
            "metric_list": [_EXACT_MATCH],
            "filter_list": [
                {"name": name, "filter": [find, {"function": "take_first"}]} for name, find in _FILTERS.items()
            ],
        }
    metrics = {"acc": "mean"} | ({"acc_norm": "mean"} if task.metric == "acc_norm" else {})
    if task.classes and any(task.label(row) for row in rows["validation"]):
        metrics["f1"] = "f1"  # of class 1, which must occur
    return definition | {
        "output_type": "multiple_choice",
        "doc_to_choice": task.choices,
        "doc_to_target": task.label,
        "metric_list": [
            {"metric": name, "aggregation": how, "higher_is_better": True} for name, how in metrics.items()
        ],
    }


def _dataset(task: Task, rows: list[Row]) -> Dataset:
    """The required fields alone, labels as numbers: further fields may have types that no table holds."""
    fields = [{name: row[name] for name in task.fields} for row in rows]
    return Dataset.from_list([row | {"label": int(row["label"])} if "label" in row else row for row in fields])


def prompt_digest(task: Task, rows: list[Row]) -> str:
    """sha256 over the prompts and answers of `rows`, in order."""
    return hashlib.sha256(json.dumps([[task.prompt(row), task.answer(row)] for row in rows]).encode()).hexdigest()


def _score(lm: HFLM, task: Task, rows: dict[str, list[Row]]) -> tuple[dict[str, float | None], dict[str, list]]:
    """(every metric with its standard error; outcomes, predictions and log-likelihoods in the order of the rows)."""
    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = TaskManager(include_defaults=False)  # reading lm-eval's own 14,000 task files takes 8 s
    with redirect_stdout(sys.stderr):  # the bootstrap says that it runs
        result = simple_evaluate(lm, tasks=[task_definition(task, rows)], task_manager=tasks, log_samples=True,
                                 bootstrap_iters=BOOTSTRAP)  # fmt: skip
    chosen = "none" if task.choices else "strict-match"
    metrics = {}
    for key, value in result["results"][task.name].items():
        name, _, filtered = key.partition(",")
        if isinstance(value, int | float) and filtered:
            metrics[name if filtered == chosen else f"{name}_{filtered}"] = float(value)
    samples = [sample for sample in result["samples"][task.name] if sample["filter"] == chosen]
    samples.sort(key=lambda sample: sample["doc_id"])
    outcomes = [float(sample[task.metric]) for sample in samples]
    if task.choices is None:
        return metrics, {"outcomes": outcomes, "predictions": [sample["filtered_resps"][0] for sample in samples]}
    logs = [[float(log) for log, _ in sample["filtered_resps"]] for sample in samples]
    predictions = [_likeliest(task, row, log) for row, log in zip(rows["validation"], logs, strict=True)]
    by_row = {"outcomes": outcomes, "predictions": predictions, "log_likelihoods": logs}
    return metrics | _by_class(task, rows["validation"], outcomes), by_row


def _likeliest(task: Task, row: Row, logs: list[float]) -> int:
    """The choice that the headline metric takes: for acc_norm the likeliest a character, as lm-eval does."""
    lengths = [len(choice) for choice in task.choices(row)] if task.metric == "acc_norm" else 1
    return int(np.argmax(np.array(logs) / lengths))


def _by_class(task: Task, rows: list[Row], outcomes: list[float]) -> dict[str, float | None]:
    """Recall of each class with its binomial standard error, None where it has too few rows; and the majority floor:
    what one and the same answer to all rows scores at best."""
    labels = [task.label(row) for row in rows]
    found = {"majority_floor": max(Counter(labels).values()) / len(labels)} if task.classes else {}
    for number, name in enumerate(task.classes):
        own = [outcome for outcome, label in zip(outcomes, labels, strict=True) if label == number]
        found[f"recall_{name}"] = mean(own) if own else None
        found[f"recall_{name}_stderr"] = mean_stderr(own) if len(own) > 1 else None
    return found
