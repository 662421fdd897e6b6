"""Continuations that share the pass over their context have the log-likelihoods of one pass per continuation.

tests/language_model/test_logits.py compares every architecture."""

import pytest
import torch
from sparseft.evaluation.shared_context import LONGEST, log_likelihoods, may_share_contexts
from sparseft.language_model.model import load_model
from tiny_models import change_json, save_tiny

CONTEXTS = [list(range(10, 90)), [7, 3, 9], [7, 3, 9, 4]]
CONTINUATIONS = [[5], [5, 6, 7], [8, 6], [9, 10, 11, 12, 13]]
REQUESTS = [(context, continuation) for continuation in CONTINUATIONS for context in CONTEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in float32 whose config.json has multipliers."""
    folder = save_tiny("granite", tmp_path_factory.mktemp("granite") / "model", torch.float32)
    return load_model(folder, torch.device("cpu"))[0]


@torch.no_grad()
def by_itself(model: torch.nn.Module, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Return the log-likelihood of a continuation from a pass of its own, and whether greedy decoding gives it."""
    inputs = torch.tensor([context + continuation[:-1]])
    logits = model(inputs).logits[0, len(context) - 1 :].double()
    targets = torch.tensor(continuation)
    logs = logits.log_softmax(-1)[torch.arange(len(targets)), targets]
    return float(logs.sum()), bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_log_likelihoods_are_those_of_one_pass_per_continuation(model, batch_size):
    shared = log_likelihoods(model, REQUESTS, batch_size)
    expected = [by_itself(model, *request) for request in REQUESTS]
    assert [log for log, _ in shared] == pytest.approx([log for log, _ in expected], abs=1e-4)
    assert len({round(log, 3) for log, _ in shared}) == len(REQUESTS)  # all differ, so that a mix-up shows


def test_a_greedy_continuation_is_recognised(model):
    context = CONTEXTS[1]
    greedy: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            greedy.append(int(model(torch.tensor([context + greedy])).logits[0, -1].argmax()))
    other = [*greedy[:-1], (greedy[-1] + 1) % 256]
    found = log_likelihoods(model, [(context, greedy), (context, other), (context, greedy[:2])], 4)
    assert [hit for _, hit in found] == [True, False, True]


def test_equal_requests_cost_one_pass_and_have_the_same_bits(model):
    lengths = []
    embeddings = model.get_input_embeddings()
    count = embeddings.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].numel()))
    once = log_likelihoods(model, REQUESTS, 16)
    often = log_likelihoods(model, REQUESTS * 20, 16)
    count.remove()
    assert often == once * 20
    assert lengths[0] == lengths[1]


def test_only_short_continuations_of_a_float32_model_share_a_context(model):
    short = [([1, 2], [3] * LONGEST)]
    assert may_share_contexts(model, short)
    assert not may_share_contexts(model, [*short, ([1, 2], [3] * (LONGEST + 1))])
    assert not may_share_contexts(model.to(torch.bfloat16), short)


LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "is_shared"), [
    # A decoder layer with a window sees a part of the context.
    ("mistral", {}, False),
    ("gemma3", {}, False),
    # The architecture says which attention it has, and not config.json.
    ("llama", {"attn_implementation": "eager"}, True),
    ("llama", {"_attn_implementation": "eager"}, True),
    # A batch with a long sequence gives all of it other angles.
    ("llama", {"rope_parameters": LONGROPE}, False),
    # A LLaMA made of a Mistral keeps this, and no LLaMA heeds it.
    ("llama", {"sliding_window": 8}, True),
])  # fmt: skip
def test_settings_of_attention_in_config_json_change_no_log_likelihood(tmp_path, name, changes, is_shared):
    folder = save_tiny(name, tmp_path / "model", torch.float32)
    change_json(folder / "config.json", **changes)
    model = load_model(folder, torch.device("cpu"))[0]
    assert may_share_contexts(model, REQUESTS) is is_shared
    if is_shared:
        expected = [by_itself(model, *request)[0] for request in REQUESTS]
        assert [log for log, _ in log_likelihoods(model, REQUESTS, 16)] == pytest.approx(expected, abs=1e-4)
