"""Token perplexity of a text; on WikiText-2 the number that pruning papers print.

    exp(mean over all tokens of -log p(token | those before it in its window))

over windows of `context` tokens that do not overlap; the text is tokenised once, its rest after the last whole window
left out (github.com/locuslab/wanda, lib/eval.py). It depends on the context and on the tokeniser: compare equal ones
alone. lm-eval's `wikitext` is another number, a word perplexity.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError

LARGEST_LOSS = 709  # nats per token: exp(709.79) is more than the largest float


@torch.no_grad()
def token_perplexity(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, context: int, windows: int | None = None
) -> float:
    """Return the perplexity per token, over the first `windows` windows, or over all.

    Raises InputError if the text is too short, the context is too long, or the loss has no finite exponential."""
    limit = model.config.max_position_embeddings
    if not 2 <= context <= limit:
        raise InputError(
            f"perplexity: a context of {context} tokens, the model takes {limit}", "set 2 or more, no more"
        )
    ids = torch.tensor(tokenizer.encode(text, verbose=False))
    whole = len(ids) // context
    if whole < (windows or 1):
        raise InputError(f"perplexity: {whole} windows of {context} in {len(ids)} tokens", "give more text")
    losses = []
    for window in ids[: (windows or whole) * context].reshape(-1, context).to(model.device):
        logits = model(window[None], use_cache=False).logits[0, :-1]  # (context - 1, V)
        losses.append(F.cross_entropy(logits.float(), window[1:]).item())
    mean = sum(losses) / len(losses)
    if not mean <= LARGEST_LOSS:
        raise InputError(
            f"perplexity: the mean loss is {mean:g} nats per token, at most {LARGEST_LOSS} have a finite perplexity",
            "check the model's weights, prune less, or leave the perplexity out",
        )
    return math.exp(mean)
