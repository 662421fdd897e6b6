"""Evaluation by lm-eval as a library, on the prompts that training reads; gsm8k puts worked examples before its own.

The task's functions go into lm-eval's task definition as they are; its metrics, filters and standard errors are its
own (github.com/EleutherAI/lm-evaluation-harness). Each is computed again from the rows (tasks/scoring.py) before it is
returned, so that a change in lm-eval is refused instead of reported.
"""

import hashlib
import json
import logging
import math
import os
import sys
from contextlib import redirect_stdout
from importlib.metadata import version

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before datasets is imported: nothing is looked up on the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval's bootstrap: no copy of this process for a second of work

import numpy as np
from datasets import Dataset, disable_progress_bars
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn
from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.evaluation.shared_context import is_exact_enough, log_likelihoods
from sparseft.language_model.batches import Example, continues, encode, refuse_indivisible, refuse_longer, refuse_rows
from sparseft.language_model.hardware import device_name
from sparseft.language_model.loss import AnswerLoss, answer_losses
from sparseft.tasks import extraction, scoring
from sparseft.tasks.source import overlap
from sparseft.tasks.task import Row, Task

_EXACT_MATCH = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "ignore_case": True,
    "ignore_punctuation": False,
    "regexes_to_ignore": extraction.IGNORED,
}
_FILTERS = {
    "strict-match": {"function": "regex", "regex_pattern": extraction.STRICT_MATCH},
    "flexible-extract": {"function": "regex", "group_select": -1, "regex_pattern": extraction.FLEXIBLE_EXTRACT},
}


class StrictLM(HFLM):
    """Run lm-eval's model, and refuse what lm-eval would do in silence.

    It refuses a prompt longer than the context, which lm-eval cuts. It refuses a prompt that cannot be told from its
    answer by tokens, one of which training reads other tokens, and two choices of the same tokens. Requests come in the order of the validation rows, and a
    refusal gives the number of the first row.

    Choices share one pass over their prompt where that cannot change an answer (shared_context.py). Then
    `shared_contexts` is True. Elsewhere every choice has a pass of its own, which is lm-eval's."""

    shared_contexts = False

    def _loglikelihood_tokens(self, requests, *args, **options):
        pairs = [(context, continuation) for _, context, continuation in requests]
        self.shared_contexts = is_exact_enough(self.model, pairs)
        if self.shared_contexts:
            return log_likelihoods(self.model, pairs, self.batch_size)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def loglikelihood(self, requests, *args, **options):
        lengths: dict[int, int] = {}  # by row
        divisible: dict[int, bool] = {}
        foreign: dict[int, bool] = {}
        choices: dict[int, list[tuple[int, ...]]] = {}
        for request in requests:
            prompt, choice = self._encode_pair(*request.args)
            row, whole = request.doc_id, self.tok_encode("".join(request.args))
            lengths[row] = max(lengths.get(row, 0), len(whole))
            divisible[row] = divisible.get(row, True) and continues(prompt, whole)
            foreign[row] = prompt != self.tokenizer.encode(request.args[0].rstrip())
            choices.setdefault(row, []).append(tuple(choice))
        name = requests[0].task_name
        refuse_longer(f"{name}: validation prompts with their choices", list(lengths.values()), self.max_length)
        refuse_indivisible(name, list(divisible.values()))
        # lm-eval puts no token of the beginning before a text that begins with its letters.
        refuse_rows(
            f"{name}: lm-eval reads other tokens of a prompt than training", list(foreign.values()),
            f"take {self.tokenizer.bos_token} away from the beginning of the text",
        )  # fmt: skip
        refuse_rows(
            f"{name}: two choices have the same tokens", [len(set(tokens)) < len(tokens) for tokens in choices.values()],
            "take the tokenizer of the model, or make the choices of an example differ",
        )  # fmt: skip
        return super().loglikelihood(requests, *args, **options)

    def generate_until(self, requests, *args, **options):
        new = [options["max_gen_toks"] for _, options in (request.args for request in requests)]
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        name = requests[0].task_name
        what = f"{name}: validation prompts with their worked examples and {max(new)} tokens for the answer"
        refuse_longer(what, [len(prompt) + room for prompt, room in zip(prompts, new, strict=True)], self.max_length)
        wholes = [self.tok_encode(f"{request.args[0]} 1") for request in requests]
        refuse_indivisible(name, [continues(*pair) for pair in zip(prompts, wholes, strict=True)])
        return super().generate_until(requests, *args, **options)


def evaluate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, rows: dict[str, list[Row]], batch_size: int
) -> dict:
    """Score a model on rows["validation"]; return what evaluation.json says of it.

    rows["train"] serves the worked examples where the task has any: `few_shot` of them stand before a question that is
    answered, `loss_few_shot` (none) before one whose loss is taken. eval_loss is in nats per answer token. By row:

        labels           index of the right choice, or the target text of a generated answer
        choice_lengths   characters of each choice, which acc_norm divides by
        log_likelihoods  of each choice, nats
        generations      the whole generated text
        predictions      index of the choice that the headline metric takes, or the extracted answer
        outcomes         1 where the headline metric counts the row as right, else 0
        losses           of the right answer, nats, over its answer_tokens

    `ties` counts the rows with several likeliest choices, of which lm-eval takes the first.
    Raises InputError where the rows cannot be scored, and where lm-eval's numbers are not those of the rows."""
    task.check(rows)
    if batch_size < 1:
        raise InputError(f"an evaluation in batches of {batch_size}", "give a batch size of 1 or more")
    lm = StrictLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    metrics, by_row = _score(lm, task, rows)
    examples = encode(rows["validation"], task, tokenizer, model.config.max_position_embeddings)
    if lm.shared_contexts:
        losses, tokens = _losses_of_choices(by_row, examples)
    else:
        losses, tokens = answer_losses(AnswerLoss(model), examples, batch_size, model.device)
    return {
        "task": task.name,
        "metric": task.metric,
        "value": metrics[task.metric],
        "standard_error": metrics[f"{task.metric}_stderr"],
        "examples": len(rows["validation"]),
        "distinct_prompts": len({task.prompt(row) for row in rows["validation"]}),
        "chance": scoring.chance_of(by_row.get("choice_lengths")),
        "few_shot": task.few_shot,
        "eval_loss": float(losses.sum() / tokens.sum()),
        "loss_few_shot": 0,
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


def _losses_of_choices(by_row: dict, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Return per row the loss of the right answer in nats, float64 (N,), and its number of tokens, int64 (N,).

    The answer is one of the choices, so its loss is minus the log-likelihood that was just computed. Training reads the
    same tokens (batches.py)."""
    pairs = zip(by_row["log_likelihoods"], by_row["labels"], strict=True)
    losses = np.array([-logs[label] for logs, label in pairs])
    return losses, np.array([len(example.ids) - example.answer_start for example in examples])


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


def _score(lm: HFLM, task: Task, rows: dict[str, list[Row]]) -> tuple[dict[str, float | None], dict[str, object]]:
    """Return every metric with its standard error, and what lm-eval saw and decided in the order of the rows."""
    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = TaskManager(include_defaults=False)  # reading lm-eval's own 14,000 task files takes 8 s
    with redirect_stdout(sys.stderr):  # the bootstrap says that it runs
        result = simple_evaluate(lm, tasks=[task_definition(task, rows)], task_manager=tasks, log_samples=True,
                                 bootstrap_iters=scoring.BOOTSTRAP)  # fmt: skip
    chosen = "none" if task.choices else "strict-match"
    metrics = {}
    for key, value in result["results"][task.name].items():
        name, _, filtered = key.partition(",")
        if isinstance(value, int | float) and filtered:
            metrics[name if filtered == chosen else f"{name}_{filtered}"] = float(value)
    samples = [sample for sample in result["samples"][task.name] if sample["filter"] == chosen]
    samples.sort(key=lambda sample: sample["doc_id"])
    by_row = (
        _generated(samples, task, rows["validation"])
        if task.choices is None
        else _chosen(samples, task, rows["validation"])
    )
    expected = _recomputed(task, by_row)
    _refuse_unlike(task.name, metrics | {"outcomes": [float(sample[task.metric]) for sample in samples]},
                   expected | {"outcomes": by_row["outcomes"]})  # fmt: skip
    by_class = {name: value for name, value in expected.items() if name.startswith(("recall_", "majority_floor"))}
    return metrics | by_class, by_row


def _chosen(samples: list[dict], task: Task, rows: list[Row]) -> dict[str, object]:
    """Return the rows of a task with choices. Raises InputError where a log-likelihood is not finite."""
    labels, lengths = scoring.labels_of(rows, task)
    logs = [[float(log) for log, _ in sample["filtered_resps"]] for sample in samples]
    refuse_rows(
        f"{task.name}: log-likelihoods are not finite", [not all(map(math.isfinite, row)) for row in logs],
        "lower training.learning_rate, or check the model's weights",
    )  # fmt: skip
    judged = scoring.judge_choices(labels, logs, lengths, task.metric)
    return {"labels": labels, "choice_lengths": lengths, "log_likelihoods": logs, **judged}


def _generated(samples: list[dict], task: Task, rows: list[Row]) -> dict[str, object]:
    """Return the rows of a task with generated answers."""
    labels, _ = scoring.labels_of(rows, task)
    generations = [sample["resps"][0][0] for sample in samples]
    return {"labels": labels, "generations": generations, **scoring.judge_texts(labels, generations)}


def _recomputed(task: Task, by_row: dict) -> dict[str, float | None]:
    """Return the metrics of the task, computed from its rows without lm-eval."""
    if task.choices is None:
        return scoring.generated_metrics(by_row["labels"], by_row["generations"])
    labels, logs = by_row["labels"], by_row["log_likelihoods"]
    metrics = scoring.choice_metrics(labels, logs, by_row["choice_lengths"], task.classes)
    if "f1" in metrics:
        metrics["f1_stderr"] = scoring.f1_standard_error(labels, logs)
    return metrics


def _refuse_unlike(task: str, theirs: dict[str, object], ours: dict[str, object]) -> None:
    """Raise InputError where a number of lm-eval is not the one of the rows: then its rules are not the ones known here."""
    for name, value in theirs.items():
        if name not in ours or not np.allclose(value, ours[name], rtol=0, atol=1e-9):
            raise InputError(
                f"{task}: {name} by lm-eval {version('lm-eval')} is not what its rows say",
                "install the lm-eval that pyproject.toml names, and report this line",
            )
