"""Sample texts from a model itself, and write windows of token ids, with what the model says of them.

Every token is drawn from the softmax of the model's logits, in fp32, divided by the temperature. Nothing is cut off,
and no other setting of a generation applies. The end of a document is a token like any other: the model goes on, as it
does in its packed training data. So at temperature 1, a window is drawn from the model's distribution over sequences of
this length. The mean of log p - log q over its tokens is an unbiased estimate of the divergence from p, the model, to
another model q (evaluation/divergence.py). Importances calibrate on such windows too.

A text of a model was first used for calibration by Williams et al., arXiv 2410.17170.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from sparseft.common.errors import InputError
from sparseft.common.progress import show
from sparseft.data.rows import as_lines
from sparseft.data.settings import CalibrationText
from sparseft.data.texts import write_source_text
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.loss import CrossEntropyFunction, check_finite_evaluation, logits_by_rows

# A text is refused if a larger share of its tokens ends a document.
MOST_ENDS = 0.5


def sample_windows(model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: CalibrationText) -> list[Example]:
    """Return the windows that `text` asks of the model. Each begins with the token that begins a text, or else with
    that which ends one.

    The same model, settings and machine give the same windows. Raises InputError if the model takes no such window, or
    if most tokens end a document."""
    end, place, limit = tokenizer.eos_token_id, model.name_or_path, model.config.max_position_embeddings
    if text.length > limit:
        raise InputError(
            f"{place}: windows of {text.length} tokens, but the model takes {limit}",
            f"set their length to at most {limit}",
        )
    first = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    generator = torch.Generator(model.device).manual_seed(text.seed)
    starts = torch.full((text.examples, 1), first, device=model.device).split(text.together)
    batches = show(starts, "batch of windows", len(starts))
    ids = torch.cat([_continued(model, start, text, generator) for start in batches])
    share = (ids[:, 1:] == end).float().mean().item()
    if share > MOST_ENDS:
        raise InputError(
            f"{place}: {100 * share:.0f} % of the tokens that the model samples are {tokenizer.eos_token},"
            " which ends a text",
            "calibrate on a text of documents",
        )
    return [Example(window, 1) for window in ids.tolist()]


@torch.no_grad()
def _continued(model: nn.Module, ids: torch.Tensor, text: CalibrationText, generator: torch.Generator) -> torch.Tensor:
    """Return the token ids (B, 1) continued by the model to (B, text.length). torch raises RuntimeError if a
    probability is not a number."""
    cache, last = DynamicCache(), ids
    while ids.shape[1] < text.length:
        # By its position, because releases of transformers name the cache differently.
        logits = model(last, None, None, cache, use_cache=True).logits[:, -1]
        probabilities = (logits.float() / text.temperature).softmax(-1)
        last = torch.multinomial(probabilities, 1, generator=generator)
        ids = torch.cat([ids, last], 1)
    return ids


@torch.no_grad()
def score_windows(model: nn.Module, windows: list[Example]) -> dict[str, np.ndarray]:
    """Return what a model says of each token but the first of equally long windows, (windows, tokens - 1).

        log_p  the logarithm of its probability at temperature 1, in nats, float64
        top    the likeliest token in its place, int64

    Each window is a batch of its own. So no setting of the batches changes a bit. Raises InputError if a probability is
    not a number."""
    parts = [
        (-CrossEntropyFunction.apply(logits, targets).double(), logits.argmax(1))
        for window in windows
        for targets, logits in logits_by_rows(model, torch.tensor(window.ids, device=model.device))
    ]
    log_p, top = (torch.cat(values).view(len(windows), -1).cpu().numpy() for values in zip(*parts, strict=True))
    check_finite_evaluation(-log_p.sum())
    return {"log_p": log_p, "top": top}


def write_windows(
    path: Path, windows: list[Example], tokenizer: PreTrainedTokenizerBase, source: dict, **scores: np.ndarray
) -> None:
    """Write windows with their text and their `scores`, and their `source`, which has the model's digest, beside them.

    Both files appear, or none."""
    rows = (
        {"text": tokenizer.decode(window.ids), **vars(window)}
        | {name: of_windows[number].tolist() for name, of_windows in scores.items()}
        for number, window in enumerate(windows)
    )
    write_source_text(path, as_lines(rows), source)
