"""Compute the log-likelihoods of several continuations of a context with one forward pass over the context.

lm-eval runs the context once per continuation. Here the continuations stand behind their context in one sequence:

    tokens      c0 c1 c2 | a0 a1 | b0 b1 b2        the context c, the continuations a and b without their last tokens
    positions    0  1  2 |  3  4 |  3  4  5        each continuation starts where the context ends
    a1 sees     c0 c1 c2 | a0 a1 |                 never another continuation

lm_head runs only on the tokens that predict a token of a continuation.

The results equal those of one pass per continuation, apart from rounding. For a short continuation in float32 it is about
1e-5 nats. `may_share_contexts` rejects the requests for which this does not hold:

- A 16-bit model rounds by 0.01 nats or more.
- For a long continuation, lm-eval's own sum in float32 rounds by more than 1e-4 nats.
- A model's config.json may ask for an attention or for positions under which a packed sequence means something else.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sparseft.language_model.attention import attention_windows, has_fixed_rope
from sparseft.language_model.logits import logits

# Tokens of a continuation. If each token costs 16 nats, the spacing of float32 numbers at their sum is 3e-5 nats.
LONGEST = 16
# torch's own attention. The eager one of transformers adds a mask of True and False as 1 and 0.
ATTENTION = "sdpa"
# The segments of a sequence. Its continuations are segments 1, 2, and so on.
CONTEXT = 0
PADDING = -1


@dataclass(frozen=True)
class Sequence:
    """Hold one context with its continuations, as token ids. `requests` are the places of the continuations in the result.

    The last token of a continuation is predicted, and is no input."""

    context: tuple[int, ...]
    continuations: list[tuple[int, ...]]
    requests: list[int]

    @property
    def ids(self) -> list[int]:
        """Return the input tokens: the context and the continuations."""
        return [*self.context, *(token for tokens in self.continuations for token in tokens[:-1])]

    @property
    def positions(self) -> list[int]:
        """Return the position of each input token."""
        end = len(self.context)
        return [*range(end), *(end + place for tokens in self.continuations for place in range(len(tokens) - 1))]

    @property
    def segments(self) -> list[int]:
        """Return the segment of each input token."""
        numbers = [number for number, tokens in enumerate(self.continuations, start=1) for _ in tokens[:-1]]
        return [CONTEXT] * len(self.context) + numbers

    @property
    def predictors(self) -> list[int]:
        """Return for each token of the continuations the place of the input token that predicts it."""
        places = []
        start = len(self.context)
        for tokens in self.continuations:
            stop = start + len(tokens) - 1
            places += [len(self.context) - 1, *range(start, stop)]
            start = stop
        return places


@dataclass(frozen=True)
class Packed:
    """Hold a batch of sequences: T is the longest length, N the number of predicted tokens."""

    ids: Tensor  # int64 (B, T)
    positions: Tensor  # int64 (B, T)
    # By window: bool (B, 1, T, T), whether the token of the row sees the token of the column.
    visible: dict[int | None, Tensor]
    predictors: Tensor  # int64 (N,): place of the token that predicts, in the flattened (B * T,)
    targets: Tensor  # int64 (N,): the predicted token
    owners: list[int]  # (N,): the request that a predicted token belongs to


def may_share_contexts(model: nn.Module, requests: list[tuple[list[int], list[int]]]) -> bool:
    """Return whether sharing the passes over the contexts changes the log-likelihoods only by about 1e-5 nats.

    `requests` are pairs of context and continuation in token ids."""
    if model.dtype != torch.float32 or any(len(continuation) > LONGEST for _, continuation in requests):
        return False
    return model.config._attn_implementation == ATTENTION and has_fixed_rope(model)


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, requests: list[tuple[list[int], list[int]]], batch_size: int
) -> list[tuple[float, bool]]:
    """Return for each (context, continuation) its log-likelihood in nats, and whether greedy decoding gives it.

    Requests are in token ids. `batch_size` is the number of contexts in a forward pass. Equal requests are computed once."""
    pairs = [(tuple(context), tuple(continuation)) for context, continuation in requests]
    places = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
    # The longest sequences come first, so that a lack of memory shows at once.
    sequences = sorted(_by_context(list(places)), key=lambda sequence: -len(sequence.ids))
    windows = set(attention_windows(model.config))
    sums = [0.0] * len(places)
    is_greedy = [True] * len(places)
    for start in range(0, len(sequences), batch_size):
        packed = _pack(sequences[start : start + batch_size], windows)
        logs, hits = _predict(model, packed)
        for request, log, hit in zip(packed.owners, logs, hits, strict=True):
            sums[request] += log
            is_greedy[request] = is_greedy[request] and hit
    return [(sums[places[pair]], is_greedy[places[pair]]) for pair in pairs]


def _by_context(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Sequence]:
    """Return one sequence per context, with its continuations. The requests are places in `pairs`."""
    places: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (context, _) in enumerate(pairs):
        places[context].append(place)
    return [
        Sequence(context, [pairs[place][1] for place in requests], requests) for context, requests in places.items()
    ]


def _pack(sequences: list[Sequence], windows: set[int | None]) -> Packed:
    """Pack sequences into one batch. A token sees at most a window of tokens, itself included; None means all."""
    ids = _padded([sequence.ids for sequence in sequences], 0)
    positions = _padded([sequence.positions for sequence in sequences], 0)
    everything = _visible(_padded([sequence.segments for sequence in sequences], PADDING))
    distances = positions[:, :, None] - positions[:, None, :]
    visible = {
        window: (everything if window is None else everything & (distances < window))[:, None] for window in windows
    }
    width = ids.shape[1]
    predictors = [row * width + place for row, sequence in enumerate(sequences) for place in sequence.predictors]
    targets = [token for sequence in sequences for tokens in sequence.continuations for token in tokens]
    owners = [
        request
        for sequence in sequences
        for request, tokens in zip(sequence.requests, sequence.continuations, strict=True)
        for _ in tokens
    ]
    return Packed(ids, positions, visible, torch.tensor(predictors), torch.tensor(targets), owners)


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """Return rows of numbers, padded on the right with `value`, int64 (B, T)."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _visible(segments: Tensor) -> Tensor:
    """Return which tokens see which, bool (B, T, T), from the segment of each token, (B, T).

    A token sees the earlier tokens of the context and of its own segment."""
    looking, seen = segments[:, :, None], segments[:, None, :]
    itself = torch.eye(segments.shape[1], dtype=torch.bool)
    earlier = torch.ones_like(itself).tril()
    visible = earlier & ((seen == CONTEXT) | (seen == looking)) & (looking != PADDING)
    # Padding sees only itself. A softmax over nothing would be NaN.
    return visible | itself


def _attention_mask(model: nn.Module, visible: dict[int | None, Tensor]) -> Tensor | dict[str, Tensor]:
    """Return what each token sees as transformers takes it: one tensor, or one for each type of decoder layer."""
    masks = {window: mask.to(model.device) for window, mask in visible.items()}
    if len(masks) == 1:
        return next(iter(masks.values()))
    windows = attention_windows(model.config)
    return {kind: masks[window] for kind, window in zip(model.config.layer_types, windows, strict=True)}


def _predict(model: nn.Module, packed: Packed) -> tuple[list[float], list[bool]]:
    """Return for each predicted token its log-probability in nats, and whether it is the likeliest."""
    hidden = model.get_decoder()(
        input_ids=packed.ids.to(model.device),
        attention_mask=_attention_mask(model, packed.visible),
        position_ids=packed.positions.to(model.device),
        use_cache=False,
    ).last_hidden_state.flatten(0, 1)  # (B * T, H)
    # The context's last token predicts the first token of every continuation.
    places, order = packed.predictors.unique(return_inverse=True)
    scores = logits(model, hidden[places.to(model.device)][None])[0]  # (unique predictors, V)
    scales = scores.logsumexp(-1)
    best = scores.argmax(-1)
    order = order.to(model.device)
    targets = packed.targets.to(model.device)
    logs = scores[order, targets] - scales[order]
    return logs.double().tolist(), (best[order] == targets).tolist()
