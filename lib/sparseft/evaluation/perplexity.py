"""Measure the token perplexity of a text. On WikiText-2 it is the number that pruning papers print.

    exp(mean of -log p(token | the tokens before it in its window))

The text is tokenised once and cut into windows of `context` tokens that do not overlap. The tokens after the last whole window
are left out, as in github.com/locuslab/wanda, lib/eval.py. Perplexities with another context or tokenizer cannot be compared.
lm-eval's `wikitext` is a perplexity per word, which is another number.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from sparseft.errors import InputError
from sparseft.tasks.scoring import perplexity_of


@torch.no_grad()
def token_perplexity(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, context: int, windows: int | None = None
) -> float:
    """Return the perplexity per token, over the first `windows` windows, or over all.

    Raises InputError if the text is too short, the context is too long, or the perplexity is not a finite number."""
    limit = model.config.max_position_embeddings
    if not 2 <= context <= limit:
        raise InputError(
            f"perplexity.context is {context} tokens, but the model takes {limit}", f"set it to 2 to {limit}"
        )
    ids = torch.tensor(tokenizer.encode(text, verbose=False))
    available = len(ids) // context
    if available < (windows or 1):
        raise InputError(f"perplexity: {available} windows of {context} in {len(ids)} tokens", "give more text")
    used = windows or available
    losses = []
    for window in ids[: used * context].reshape(used, context).to(model.device):
        logits = model(window[None], use_cache=False).logits[0, :-1]  # (context - 1, V)
        losses.append(F.cross_entropy(logits.float(), window[1:]).item())
    return perplexity_of(sum(losses) / len(losses))
