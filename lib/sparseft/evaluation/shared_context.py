"""Log-likelihoods of several continuations of one context, from one forward pass over the context.

lm-eval runs the context once per continuation. Here the continuations of a context stand behind it in one sequence:

    tokens      c0 c1 c2 | a0 a1 | b0 b1 b2        the context c, the continuations a and b without their last tokens
    positions    0  1  2 |  3  4 |  3  4  5        each continuation goes on from the context
    a1 sees     c0 c1 c2 | a0 a1 |                 never another continuation

lm_head runs only on the positions that predict a token of a continuation.

The numbers equal those of one pass per continuation, apart from rounding. In float32 it is about 1e-5 nats for a short
continuation. `is_exact_enough` accepts only such requests. A 16-bit model rounds by 0.01 nats or more. For a long
continuation, lm-eval's own sum in float32 rounds by more than 1e-4 nats. A model's config.json may also ask for an attention
or for positions under which a packed sequence means something else. lm-eval's own passes evaluate all of these.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseft.language_model.attention import FIXED_ROPE, attention_window

# Tokens of a continuation. If each token costs 16 nats, the spacing of float32 numbers at their sum is 3e-5 nats.
LONGEST = 16
# torch's own attention. The eager one of transformers adds a mask of True and False as 1 and 0.
ATTENTION = "sdpa"


@dataclass(frozen=True)
class Sequence:
    """One context with its continuations, as token ids; `requests` are the places of the continuations in the result."""

    context: tuple[int, ...]
    continuations: list[tuple[int, ...]]
    requests: list[int]

    @property
    def length(self) -> int:
        """Return the number of input tokens. The last token of a continuation is predicted, and is no input."""
        return len(self.context) + sum(len(tokens) - 1 for tokens in self.continuations)


@dataclass(frozen=True)
class Packed:
    """A batch of sequences: T is the longest length, N the number of predicted tokens."""

    ids: Tensor  # int64 (B, T)
    positions: Tensor  # int64 (B, T)
    visible: Tensor  # bool (B, 1, T, T): the row is the token that looks, the column the one that it sees
    predictors: Tensor  # int64 (N,): place of the token that predicts, in the flattened (B * T,)
    targets: Tensor  # int64 (N,): the predicted token
    owners: list[int]  # (N,): the request that a predicted token belongs to


def is_exact_enough(model: nn.Module, requests: list[tuple[list[int], list[int]]]) -> bool:
    """Return whether the requests, (context, continuation) in token ids, may share the passes over their contexts."""
    if model.dtype != torch.float32 or any(len(continuation) > LONGEST for _, continuation in requests):
        return False
    rope = model.get_decoder().rotary_emb.rope_type
    return model.config._attn_implementation == ATTENTION and rope in FIXED_ROPE


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, requests: list[tuple[list[int], list[int]]], batch_size: int
) -> list[tuple[float, bool]]:
    """Return for each (context, continuation) in token ids its log-likelihood in nats, and whether greedy decoding gives it.

    `batch_size` is the number of contexts in a forward pass. Equal requests are computed once, and have the same bits."""
    pairs = [(tuple(context), tuple(continuation)) for context, continuation in requests]
    places = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
    # The longest sequences come first, so that running out of memory shows at once.
    sequences = sorted(_by_context(list(places)), key=lambda sequence: -sequence.length)
    sums = [0.0] * len(places)
    greedy = [True] * len(places)
    for start in range(0, len(sequences), batch_size):
        packed = _pack(sequences[start : start + batch_size], attention_window(model.config))
        logs, hits = _predict(model, packed)
        for request, log, hit in zip(packed.owners, logs, hits, strict=True):
            sums[request] += log
            greedy[request] = greedy[request] and hit
    return [(sums[places[pair]], greedy[places[pair]]) for pair in pairs]


def _by_context(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Sequence]:
    """Return the pairs of context and continuation with one context together."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (context, _) in enumerate(pairs):
        places[context].append(place)
    return [Sequence(context, [pairs[place][1] for place in found], found) for context, found in places.items()]


def _pack(sequences: list[Sequence], window: int | None) -> Packed:
    """Pack sequences into one batch. `window`: how many tokens back a token sees, itself included; None for all."""
    width = max(sequence.length for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    positions = torch.zeros(len(sequences), width, dtype=torch.long)
    # Padding sees itself, because a softmax over nothing is NaN.
    visible = torch.eye(width, dtype=torch.bool).repeat(len(sequences), 1, 1)
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, sequence in enumerate(sequences):
        end = len(sequence.context)
        ids[row, :end] = torch.tensor(sequence.context)
        positions[row, :end] = torch.arange(end)
        visible[row, :end, :end] = _causal(end)
        start = end
        for request, tokens in zip(sequence.requests, sequence.continuations, strict=True):
            stop = start + len(tokens) - 1
            ids[row, start:stop] = torch.tensor(tokens[:-1], dtype=torch.long)
            positions[row, start:stop] = torch.arange(end, end + len(tokens) - 1)
            visible[row, start:stop, :end] = True
            visible[row, start:stop, start:stop] = _causal(stop - start)
            predictors += [row * width + end - 1, *range(row * width + start, row * width + stop)]
            targets += tokens
            owners += [request] * len(tokens)
            start = stop
    if window is not None:
        visible &= positions[:, :, None] - positions[:, None, :] < window
    return Packed(ids, positions, visible[:, None], torch.tensor(predictors), torch.tensor(targets), owners)


def _causal(length: int) -> Tensor:
    """Return which tokens of a text see which, bool (length, length)."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def _predict(model: nn.Module, packed: Packed) -> tuple[list[float], list[bool]]:
    """Return for each predicted token its log-probability in nats, and whether it is the likeliest."""
    hidden = model.get_decoder()(
        input_ids=packed.ids.to(model.device),
        attention_mask=packed.visible.to(model.device),
        position_ids=packed.positions.to(model.device),
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)  # (B * T, H)
    # The context's last token predicts the first token of every continuation.
    places, order = packed.predictors.unique(return_inverse=True)
    logits = model.get_output_embeddings()(hidden[places.to(model.device)])  # (unique predictors, V)
    scales = logits.logsumexp(-1)
    best = logits.argmax(-1)
    order = order.to(model.device)
    targets = packed.targets.to(model.device)
    logs = logits[order, targets] - scales[order]
    return logs.double().tolist(), (best[order] == targets).tolist()
