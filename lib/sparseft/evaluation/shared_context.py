"""Compute the log-likelihoods of several continuations of a context with one forward pass over the context.

lm-eval runs the context once per continuation. Here the continuations stand behind their context in one sequence:

    tokens      c0 c1 c2 | a0 a1 | b0 b1 b2        the context c, the continuations a and b without their last tokens
    positions    0  1  2 |  3  4 |  3  4  5        each continuation starts where the context ends
    a1 sees     c0 c1 c2 | a0 a1 |                 never another continuation

For short continuations in float32 the results differ from those of one pass per continuation by about 1e-5 nats, the rounding.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparseft.language_model.loss import logits
from sparseft.language_model.model import attention_windows, has_fixed_rope

# Tokens of a continuation. If each token costs 16 nats, the spacing of float32 numbers at their sum is 3e-5 nats.
LONGEST = 16
# The segments of a sequence. Its continuations are segments 2, 3, and so on.
PADDING, CONTEXT = 0, 1

Tokens = tuple[int, ...]
Pair = tuple[Tokens, Tokens]


def may_share_contexts(model: nn.Module, requests: list[tuple[list[int], list[int]]]) -> bool:
    """Return whether sharing the passes over the contexts changes the log-likelihoods only by about 1e-5 nats.

    `requests` are pairs of context and continuation in token ids. A 16-bit model rounds by 0.01 nats or more. A model's
    config.json may ask for an attention or for positions under which a packed sequence means something else."""
    if model.dtype != torch.float32 or any(len(continuation) > LONGEST for _, continuation in requests):
        return False
    has_windows = any(attention_windows(model.config))
    # The eager attention of transformers adds a mask of True and False as 1 and 0.
    return model.config._attn_implementation == "sdpa" and has_fixed_rope(model) and not has_windows


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, requests: list[tuple[list[int], list[int]]], batch_size: int
) -> list[tuple[float, bool]]:
    """Return for each (context, continuation) its log-likelihood in nats, and whether greedy decoding gives it.

    Requests are in token ids. `batch_size` is the number of contexts in a forward pass. Equal requests are computed once."""
    pairs = [(tuple(context), tuple(continuation)) for context, continuation in requests]
    continuations: dict[Tokens, list[Tokens]] = defaultdict(list)
    for context, continuation in dict.fromkeys(pairs):
        continuations[context].append(continuation)
    # The longest sequences come first, so that a lack of memory shows at once.
    sequences = sorted(continuations.items(), key=lambda item: -len(item[0]) - sum(len(part) - 1 for part in item[1]))
    results: dict[Pair, tuple[float, bool]] = {}
    for start in range(0, len(sequences), batch_size):
        results |= _predict(model, sequences[start : start + batch_size])
    return [results[pair] for pair in pairs]


def _predict(model: nn.Module, sequences: list[tuple[Tokens, list[Tokens]]]) -> dict[Pair, tuple[float, bool]]:
    """Return the results of a batch of contexts with their continuations."""
    packed, pairs, predictors = [], [], []
    for row, (context, continuations) in enumerate(sequences):
        end = len(context)
        sequence = [(token, position, CONTEXT) for position, token in enumerate(context)]
        for segment, tokens in enumerate(continuations, start=CONTEXT + 1):
            # The context's last token predicts the first token of every continuation.
            places = [end - 1, *range(len(sequence), len(sequence) + len(tokens) - 1)]
            pairs.append((context, tokens))
            predictors += [(row, place) for place in places]
            sequence += [(token, position, segment) for position, token in enumerate(tokens[:-1], start=end)]
        packed.append(torch.tensor(sequence))
    # Each int64 (B, T), and 0 in the padding on the right.
    ids, positions, segments = pad_sequence(packed, batch_first=True).to(model.device).unbind(-1)
    mask = _attention_mask(segments)
    hidden = model.get_decoder()(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state  # (B, T, H)
    # lm_head runs once per token that predicts.
    (rows, places), order = torch.tensor(predictors, device=model.device).T.unique(dim=1, return_inverse=True)
    scores = logits(model, hidden[rows, places][None])[0]  # (unique predictors, V)
    targets = torch.tensor([token for _, tokens in pairs for token in tokens], device=model.device)
    logs = (scores[order, targets] - scores.logsumexp(-1)[order]).double()
    hits = scores.argmax(-1)[order] == targets
    counts = [len(tokens) for _, tokens in pairs]
    return {
        pair: (sum(log.tolist()), bool(hit.all()))
        for pair, log, hit in zip(pairs, logs.cpu().split(counts), hits.cpu().split(counts), strict=True)
    }


def _attention_mask(segments: Tensor) -> Tensor:
    """Return what each token sees, bool (B, 1, T, T): the earlier tokens of the context and of its own segment."""
    looking, seen = segments[:, :, None], segments[:, None, :]
    itself = torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)
    earlier = torch.ones_like(itself).tril()
    # Padding sees only itself. A softmax over nothing would be NaN.
    visible = earlier & ((seen == CONTEXT) | (seen == looking)) & (looking != PADDING) | itself
    return visible[:, None]
