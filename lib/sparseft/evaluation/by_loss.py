"""Evaluate a model on a task by the loss of its validation examples, without lm-eval.

    loss              sum of -log p(token) / number of tokens, over the answer tokens of all examples, in nats
    loss_stderr       its standard error over the examples
    token_perplexity  exp(loss)

The tokens and the loss are those of the training. For a task of text, an example is a sequence, and the perplexity is that of
evaluation/perplexity.py with `length` tokens of context.
"""

from typing import TYPE_CHECKING

from torch import nn

from sparseft.language_model.batches import Example, encode
from sparseft.language_model.hardware import device_name
from sparseft.language_model.loss import AnswerLoss, answer_losses
from sparseft.tasks.overlap import distinct_prompts
from sparseft.tasks.scoring import loss_metrics, prompt_digest
from sparseft.tasks.task import Row, Task

if TYPE_CHECKING:
    # At run time, this import would come before harness.py sets the environment variables of transformers.
    from transformers import PreTrainedTokenizerBase


def evaluate_by_loss(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", task: Task, rows: dict[str, list[Row]], batch_size: int
) -> dict:
    """Return the content of evaluation.json for the loss on rows["validation"].

    `losses`, in nats, and `answer_tokens` have one value per example. Nothing is chosen or generated, so there are no labels,
    predictions and outcomes, and `chance` and `harness` are None. Raises InputError if an example does not fit the model, or
    if a loss is not finite."""
    validation = rows["validation"]
    examples = encode(validation, task, tokenizer, model.config.max_position_embeddings)
    losses, tokens = answer_losses(AnswerLoss(model), examples, batch_size, model.device)
    metrics = loss_metrics(losses, tokens)
    return {
        "task": task.name,
        "definition_sha256": task.definition_sha256,
        "metric": task.metric,
        "value": metrics[task.metric],
        "standard_error": metrics[task.headline.standard_error],
        "examples": len(examples),
        "distinct_prompts": _distinct(task, validation, examples),
        "chance": None,
        "few_shot": 0,
        "eval_loss": metrics[task.metric],
        "loss_few_shot": 0,
        "metrics": metrics,
        "harness": None,
        "prompt_sha256": prompt_digest(task, validation),
        "device": device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "losses": losses.tolist(),
        "answer_tokens": tokens.tolist(),
    }


def _distinct(task: Task, rows: list[Row], examples: list[Example]) -> int:
    """Return the number of different prompts, or of different sequences of a text."""
    if task.sequence_length:
        return len({tuple(example.ids) for example in examples})
    return distinct_prompts(task, rows)
