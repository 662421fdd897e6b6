"""Compute the log-likelihoods of several continuations of one context, in one forward pass over the context.

lm-eval runs the context once per continuation. Here all continuations follow their context in one sequence:

    tokens      c0 c1 c2 | a0 a1 | b0 b1 b2        the context c, then the continuations a and b without their last tokens
    positions    0  1  2 |  3  4 |  3  4  5        each continuation starts at the position after the context
    a1 sees     c0 c1 c2 | a0 a1 |                 the context and its own continuation, and no other one

lm_head runs only on the positions that predict a token of a continuation.

The numbers equal those of one pass per continuation, apart from rounding. In float32 it is about 1e-5 nats for a short
continuation. `is_exact_enough` accepts only such requests. A 16-bit model rounds by 0.01 nats or more. For a long
continuation, lm-eval's own sum in float32 rounds by more than 1e-4 nats. lm-eval's own passes evaluate these two kinds.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Tokens of a continuation. If each token costs 16 nats, the spacing of float32 numbers at their sum is 3e-5 nats.
LONGEST = 16


@dataclass(frozen=True)
class Sequence:
    """Hold one context with its continuations, as token ids. `requests` are the indices of the continuations' requests."""

    context: list[int]
    continuations: list[list[int]]
    requests: list[int]

    @property
    def length(self) -> int:
        """Return the number of input tokens. The last token of a continuation is only predicted, so it is not an input."""
        return len(self.context) + sum(len(tokens) - 1 for tokens in self.continuations)


@dataclass(frozen=True)
class Packed:
    """Hold a batch of B sequences. T is the longest length, N the number of predicted tokens."""

    ids: Tensor  # int64 (B, T)
    positions: Tensor  # int64 (B, T)
    visible: Tensor  # bool (B, 1, T, T): the row is the token that looks, the column the one that it sees
    predictors: Tensor  # int64 (N,): index of the token that predicts, in the flattened (B * T,)
    targets: Tensor  # int64 (N,): the predicted token
    owners: list[int]  # (N,): index of the request that a predicted token belongs to


def is_exact_enough(model: nn.Module, requests: list[tuple[list[int], list[int]]]) -> bool:
    """Return whether the requests, (context, continuation) in token ids, may share the passes over their contexts."""
    return model.dtype == torch.float32 and all(len(continuation) <= LONGEST for _, continuation in requests)


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, requests: list[tuple[list[int], list[int]]], batch_size: int
) -> list[tuple[float, bool]]:
    """Return the log-likelihood of each (context, continuation) in nats, and whether greedy decoding gives the continuation.

    `batch_size` is the number of contexts in a forward pass."""
    # The longest sequences come first, so that running out of memory shows at once.
    sequences = sorted(_by_context(requests), key=lambda sequence: -sequence.length)
    sums = [0.0] * len(requests)
    greedy = [True] * len(requests)
    for start in range(0, len(sequences), batch_size):
        packed = _pack(sequences[start : start + batch_size], getattr(model.config, "sliding_window", None))
        log_probabilities, are_likeliest = _predict(model, packed)
        for request, log_probability, is_likeliest in zip(packed.owners, log_probabilities, are_likeliest, strict=True):
            sums[request] += log_probability
            greedy[request] = greedy[request] and is_likeliest
    return list(zip(sums, greedy, strict=True))


def _by_context(requests: list[tuple[list[int], list[int]]]) -> list[Sequence]:
    """Return one sequence per distinct context, with all of its continuations."""
    by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, (context, _) in enumerate(requests):
        by_context[tuple(context)].append(index)
    return [
        Sequence(list(context), [requests[index][1] for index in indices], indices)
        for context, indices in by_context.items()
    ]


def _pack(sequences: list[Sequence], window: int | None) -> Packed:
    """Pack sequences into one batch. `window` is the number of tokens that a token sees, itself included; None for all."""
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
            # The context's last token predicts the first token of every continuation.
            predictors += [row * width + end - 1, *range(row * width + start, row * width + stop)]
            targets += tokens
            owners += [request] * len(tokens)
            start = stop
    if window is not None:
        visible &= positions[:, :, None] - positions[:, None, :] < window
    return Packed(ids, positions, visible[:, None], torch.tensor(predictors), torch.tensor(targets), owners)


def _causal(length: int) -> Tensor:
    """Return the causal mask of a text, bool (length, length): a token sees itself and the tokens before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def _predict(model: nn.Module, packed: Packed) -> tuple[list[float], list[bool]]:
    """Return the log-probability of each predicted token in nats, and whether the token is the likeliest one."""
    hidden = model.get_decoder()(
        input_ids=packed.ids.to(model.device),
        attention_mask=packed.visible.to(model.device),
        position_ids=packed.positions.to(model.device),
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)  # (B * T, H)
    # All continuations of a context share their first predictor, so lm_head runs on each predictor only once.
    predictors, order = packed.predictors.unique(return_inverse=True)
    logits = model.get_output_embeddings()(hidden[predictors.to(model.device)])  # (unique predictors, V)
    normalizers = logits.logsumexp(-1)
    likeliest = logits.argmax(-1)
    order = order.to(model.device)
    targets = packed.targets.to(model.device)
    log_probabilities = logits[order, targets] - normalizers[order]
    return log_probabilities.double().tolist(), (likeliest[order] == targets).tolist()
