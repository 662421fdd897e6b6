"""Evaluation by lm-eval as a library, on the prompts that training reads; gsm8k puts worked examples before its own.

The task's functions go into lm-eval's task definition as they are; its metrics, filters and standard errors are its
own (github.com/EleutherAI/lm-evaluation-harness). gsm8k's filters are those of its gsm8k.yaml, version 3.
"""

import hashlib
import json
import logging
import os
from importlib.metadata import version

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before datasets is imported: nothing is looked up on the hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from datasets import Dataset, disable_progress_bars
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn
from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.tasks.task import Row, Task
from sparseft.training.batches import encode
from sparseft.training.hardware import device_name
from sparseft.training.loss import AnswerLoss, mean_answer_loss

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


class StrictLM(HFLM):
    """lm-eval's model, which here refuses what it would cut in silence: a prompt longer than the context."""

    def _loglikelihood_tokens(self, requests, *args, **options):
        for _, context, continuation in requests:
            self._refuse_longer(len(context) + len(continuation), self.max_length)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def tok_batch_encode(self, strings, padding_side="left", left_truncate_len=None, truncation=False):
        for text in strings:
            self._refuse_longer(len(self.tok_encode(text)), left_truncate_len or self.max_length)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)

    def _refuse_longer(self, tokens: int, limit: int) -> None:
        if tokens > limit:
            raise InputError(
                f"a prompt of {tokens} tokens, the model takes {limit}", "leave long examples out of the data"
            )


def evaluate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, rows: dict[str, list[Row]], batch_size: int
) -> dict:
    """Score a model on rows["validation"]; returns evaluation.json's measured content.

    rows["train"] serves the few-shot examples where the task has any. eval_loss: nats per answer token.
    Raises InputError for fewer than two rows, which have no standard error."""
    if len(rows["validation"]) < 2:
        raise InputError(f"{task.name}: one validation example has no standard error", "give two or more")
    examples = encode(rows["validation"], task, tokenizer, model.config.max_position_embeddings)
    loss = mean_answer_loss(AnswerLoss(model), examples, batch_size, model.device)
    lm = StrictLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=str(model.device))
    metrics, outcomes = _score(lm, task, rows)
    return {
        "task": task.name,
        "metric": task.metric,
        "value": metrics[task.metric],
        "standard_error": metrics[f"{task.metric}_stderr"],
        "examples": len(outcomes),
        "chance": task.chance,
        "eval_loss": loss,
        "metrics": metrics,
        "harness": f"lm-eval {version('lm-eval')}",
        "prompt_sha256": prompt_digest(task, rows["validation"]),
        "device": device_name(model.device),
        "outcomes": outcomes,
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
    metrics = ["acc", "acc_norm"] if task.metric == "acc_norm" else ["acc"]
    return definition | {
        "output_type": "multiple_choice",
        "doc_to_choice": task.choices,
        "doc_to_target": task.label,
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
    }


def _dataset(task: Task, rows: list[Row]) -> Dataset:
    """The required fields alone, labels as numbers: further fields may have types that no table holds."""
    fields = [{name: row[name] for name in task.fields} for row in rows]
    return Dataset.from_list([row | {"label": int(row["label"])} if "label" in row else row for row in fields])


def prompt_digest(task: Task, rows: list[Row]) -> str:
    """sha256 over the prompts and answers of `rows`, in order."""
    return hashlib.sha256(json.dumps([[task.prompt(row), task.answer(row)] for row in rows]).encode()).hexdigest()


def _score(lm: HFLM, task: Task, rows: dict[str, list[Row]]) -> tuple[dict[str, float], list[float]]:
    """(every metric with its standard error, the headline metric of each example in the order of the rows)."""
    disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = TaskManager(include_defaults=False)  # reading lm-eval's own 14,000 task files takes 8 s
    result = simple_evaluate(lm, tasks=[task_definition(task, rows)], task_manager=tasks, log_samples=True)
    chosen = "none" if task.choices else "strict-match"
    metrics = {}
    for key, value in result["results"][task.name].items():
        name, _, filtered = key.partition(",")
        if isinstance(value, int | float) and filtered:
            metrics[name if filtered == chosen else f"{name}_{filtered}"] = float(value)
    samples = [sample for sample in result["samples"][task.name] if sample["filter"] == chosen]
    samples.sort(key=lambda sample: sample["doc_id"])
    return metrics, [float(sample[task.metric]) for sample in samples]
