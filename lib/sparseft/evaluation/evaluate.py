"""Evaluate a model on a task with lm-eval or by its loss, and keep the results of every row, from which all metrics
follow.

Metrics and outcomes are lm-eval's. The metrics that lm-eval does not have follow from the rows (scoring.py).

A task whose headline is the loss is evaluated without lm-eval, on the tokens that training reads:

    loss              sum of -log p(token) / number of tokens, over the answer tokens of all examples, in nats
    loss_stderr       its standard error over the examples
    token_perplexity  exp(loss); for a task of text that of `token_perplexity` with `length` tokens of context
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from statistics import fmean

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from sparseft.axes.tasks.lm_eval import BY_LM_EVAL
from sparseft.axes.tasks.metrics import ACC_NORM, LOSS
from sparseft.axes.tasks.task import WINDOW, SplitRows, Task
from sparseft.common.errors import InputError
from sparseft.data.overlap import normal_form, texts_of
from sparseft.evaluation import scoring
from sparseft.models.language_model.batches import encode, refuse_rows
from sparseft.models.language_model.hardware import device_name
from sparseft.models.language_model.loss import AnswerLoss, answer_losses, check_finite_evaluation, logits_by_rows
from sparseft.models.language_model.placement import placement
from sparseft.models.language_model.sampling import score_windows


def evaluate(
    model: nn.Module,
    tokenizer,
    task: Task,
    rows: SplitRows,
    batch_size: int,
    scores_of_windows: dict[str, np.ndarray] | None = None,
) -> dict:
    """Score a model on rows["validation"], and return the content of evaluation.json.

    The metrics put `few_shot` examples, taken from rows["train"], before every question. The loss uses none, so
    `loss_few_shot` is 0. eval_loss is in nats per answer token. These fields have one value per row:

        labels           index of the right choice, or the target text of a generated answer
        choice_lengths   characters of each choice, which acc_norm divides by
        log_likelihoods  of each choice, in nats
        generations      the whole generated text
        predictions      index of the choice by the headline metric, or the extracted answer
        outcomes         the row's value of the headline metric: 1 if it counts the row as right, else 0
        losses           of the right answer, in nats, summed over its tokens
        answer_tokens    number of tokens of the right answer

    `scores_of_windows` has what `score_windows` returned for the rows, if they are windows that were scored already.

    `generation_config` has what the model's generation_config.json sets, which acts on every generated text.
    `ties` counts the rows in which several choices are the likeliest. lm-eval takes the first of them. With
    `scored_by`, lm-eval scored the rows by filters or functions of the task. Then outcomes are fractions, and do not
    follow from the other fields. A task whose headline is the loss has only losses and answer_tokens, and `chance` and
    `harness` are None.

    Raises InputError if the rows cannot be scored, or if a loss is not finite."""
    task.check(rows)
    validation, is_by_loss = rows["validation"], task.headline is LOSS
    scores = {} if is_by_loss else evaluate_probe(model, tokenizer, task, rows, batch_size)
    examples = encode(validation, task, tokenizer, model.config.max_position_embeddings)
    if task.choices and not task.few_shot and model.dtype == torch.float32:
        # The right answer is a choice, and training reads the same tokens. So its loss is minus its log-likelihood. A
        # 16-bit model rounds by up to 1 nat in other batches, so its loss is computed in the batches of the training's
        # evaluation.
        pairs = zip(scores["log_likelihoods"], scores["labels"], strict=True)
        losses = np.array([-logs[label] for logs, label in pairs])
        tokens = np.array([len(example.ids) - example.answer_start for example in examples])
    elif task.fields == WINDOW.fields and len({len(example.ids) for example in examples}) == 1:
        # As the divergence scores them.
        log_p = (scores_of_windows or score_windows(model, examples))["log_p"]
        losses, tokens = -log_p.sum(axis=1), np.full(*log_p.shape)
    else:
        losses, tokens = answer_losses(AnswerLoss(model), examples, batch_size, model.device)
    if is_by_loss:
        scores = _described(task, rows, scoring.loss_metrics(losses, tokens))
        scores |= {"examples": len(examples), "chance": None, "harness": None}
    # The examples of a text are sequences of tokens.
    sequences = (tuple(example.ids) for example in examples)
    prompts: Iterator = sequences if task.sequence_length else map(normal_form, texts_of(task, validation).parts)
    return {
        "task": task.name,
        **scores,
        "distinct_prompts": len(set(prompts)),
        "eval_loss": float(losses.sum() / tokens.sum()),
        "loss_few_shot": 0,
        "device": device_name(model.device),
        "placement": placement(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "losses": losses.tolist(),
        "answer_tokens": tokens.tolist(),
    }


def evaluate_probe(model: nn.Module, tokenizer, task: Task, rows: SplitRows, batch_size: int) -> dict:
    """Score a model on the validation rows of a task that it was not trained for. Return the fields of a probe in
    evaluation.json.

    They are those of `evaluate` that lm-eval gives, without the losses. Raises InputError as `evaluate`
    does."""
    task.check(rows)
    # The import takes seconds, and a loss needs none of it.
    from sparseft.evaluation.harness import StrictLM, run_harness

    # By default, lm-eval computes the logarithms in the model's dtype. In bfloat16, -10.03 nats would become -10.
    device = str(model.device)
    lm = StrictLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device, softmax_dtype="float32")
    metrics, samples, outcomes = run_harness(lm, task, rows)
    refuse_rows(
        f"{task.name}: {task.metric} is not a number from 0 to 1",
        [not 0 <= outcome <= 1 for outcome in outcomes],
        f"set tasks.{task.name}.metric to another metric",
    )
    responses, validation = [sample["filtered_resps"] for sample in samples], rows["validation"]
    if task.choices and task.label:
        logs = [[float(log) for log, _ in response] for response in responses]
        check_finite_evaluation(sum(map(sum, logs)))
        labels = [task.label(row) for row in validation]
        lengths = [[len(choice) for choice in task.choices(row)] for row in validation]
        predictions, ties = scoring.likeliest(logs, lengths if task.headline is ACC_NORM else None)
        answers: dict[str, object] = {
            "labels": labels,
            "choice_lengths": lengths,
            "log_likelihoods": logs,
            "ties": ties,
            "predictions": predictions.tolist(),
            # That of a random guess.
            "chance": fmean(1 / len(row) for row in lengths),
        }
        # lm-eval does not have these metrics.
        metrics |= scoring.class_metrics(labels, predictions, task.classes)
    else:
        ours = ("transformers_version", "_from_model_config")
        settings = model.generation_config.to_diff_dict().items()
        answers = {
            "labels": [task.answer(row) for row in validation],
            "generation_config": {key: value for key, value in settings if key not in ours},
            "generations": [sample["resps"][0][0] for sample in samples],
            # Some filters leave a list.
            "predictions": [text if isinstance(text, str) else json.dumps(text) for text, *_ in responses],
            "chance": 0.0,
        }
    if task.definition.get("scored_by") == BY_LM_EVAL:
        answers["scored_by"] = BY_LM_EVAL
    reported = {column for metric in task.metrics for column in metric.columns}
    return _described(task, rows, {name: value for name, value in metrics.items() if name in reported}) | {
        "examples": len(validation),
        "harness": f"lm-eval {version('lm-eval')}",
        "outcomes": outcomes,
        **answers,
    }


def _described(task: Task, rows: SplitRows, metrics: dict[str, float | None]) -> dict:
    """Return the fields that say what was evaluated, and the metrics."""
    return {
        "definition_sha256": task.definition_sha256,
        "metric": task.metric,
        "value": metrics[task.metric],
        "standard_error": metrics[task.headline.standard_error],
        "few_shot": task.few_shot,
        "metrics": metrics,
        "prompt_sha256": scoring.prompt_digest(task, rows["validation"]),
    }


@torch.no_grad()
def token_perplexity(model: nn.Module, tokenizer, text: str, context: int, windows: int | None = None) -> float:
    """Return the token perplexity of a text, over its first `windows` windows, or over all.

    The text is tokenised once and cut into windows of `context` tokens that do not overlap. The tokens after the last
    whole window are left out, as in github.com/locuslab/wanda, lib/eval.py. On WikiText-2 it is the number that pruning
    papers print. Perplexities with another context or tokenizer cannot be compared. lm-eval's `wikitext` is a
    perplexity per word.

    Raises InputError if the text is too short, the context is too long, or the perplexity is not a finite number."""
    limit = model.config.max_position_embeddings
    if context > limit:
        raise InputError(f"perplexity.context is {context} tokens, but the model takes {limit}", f"set at most {limit}")
    ids = torch.tensor(tokenizer.encode(text, verbose=False))
    available = len(ids) // context
    if available < (windows or 1):
        raise InputError(f"perplexity: {available} windows of {context} in {len(ids)} tokens", "give more text")
    used = windows or available
    losses = [
        sum(
            F.cross_entropy(logits.float(), targets).item() * (len(targets) / (context - 1))
            for targets, logits in logits_by_rows(model, window)
        )
        for window in ids[: used * context].reshape(used, context).to(model.device)
    ]
    return scoring.perplexity_of(sum(losses) / used)
