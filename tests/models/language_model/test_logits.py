"""The answer loss, its gradients, a teacher's logits and an evaluation's log-likelihoods, beside stock transformers.

The models have multipliers, caps, biases, windows and scaled rotary angles. transformers computes the logits of one
whole sequence at a time.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from sparseft.evaluation.harness import StrictLM
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Batch, Example, collate
from sparseft.models.language_model.loss import AnswerLoss, teacher_logits
from sparseft.models.language_model.model import empty_model, load_model
from sparseft.models.language_model.placement import StoredWeights, place
from sparseft.models.language_model.weights import unfuse_experts
from tiny_models import LLAMA3, MODELS, save_tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

CPU = torch.device("cpu")
LINEAR = {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0}
ROTARY = {"gemma3": {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}}
# The first is longer than the windows of 64 tokens.
CONTEXTS = [list(range(10, 90)), [7, 3, 9]]
CONTINUATIONS = {
    "short": [[5], [8, 6], [9, 10, 11, 12, 13], [0, 0, 7], [3, 0]],
    "long": [list(range(100, 130)), [number * 7 % 250 for number in range(70)]],
}


class Pair:
    """Hold a model in fp32 as a training has it, and as transformers loads it. Each method returns what each of them
    gives."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = save_tiny(name, folder, torch.float32, {"rope_parameters": ROTARY.get(name, LLAMA3)})
        self.ours, self.tokenizer = load_model(folder, CPU)
        unfuse_experts(self.ours)
        self.stock = AutoModelForCausalLM.from_pretrained(folder).eval()

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return -log p of each token of all continuations, (N,)."""
        requests = [*requests_of("short"), *requests_of("long")]
        return AnswerLoss(self.ours)(batch_of(requests)), torch.cat(
            [self._stock_losses(*request) for request in requests]
        )

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of all weights in one vector, each divided by the largest of its weight in
        transformers."""
        self.ours.requires_grad_()
        for loss in self.losses():
            loss.sum().backward()
        # The experts' gradients get the names that unfused experts have.
        for weight in self.stock.parameters():
            weight.data = weight.grad
        unfuse_experts(self.stock)
        theirs = dict(self.stock.named_parameters())
        ours = {name: weight.grad for name, weight in self.ours.named_parameters()}
        assert ours.keys() == theirs.keys()
        largest = {name: gradient.abs().max() for name, gradient in theirs.items()}
        assert all(largest.values())
        return tuple(torch.cat([(each[name] / largest[name]).flatten() for name in largest]) for each in (ours, theirs))

    def log_likelihoods(self, length: str) -> tuple[Tensor, Tensor]:
        lm = StrictLM(pretrained=self.ours, tokenizer=self.tokenizer, batch_size=4)
        found = lm._loglikelihood_tokens([(("", ""), *request) for request in requests_of(length)])
        theirs = [-self._stock_losses(*request).sum() for request in requests_of(length)]
        return torch.tensor([log for log, _ in found]), torch.stack(theirs)

    @torch.no_grad()
    def teacher(self) -> tuple[Tensor, Tensor]:
        """Return a teacher's logits, of all answers at once. The weights of its layers stay in their files, in which a
        second batch finds them again."""
        checkpoint, batch = Checkpoint(self.folder), batch_of(requests_of("long"))
        placed = empty_model(checkpoint)
        place(placed, StoredWeights(checkpoint, placed), {"cpu": 0})
        whole, first, second = (
            teacher_logits(model, batch) for model in (load_model(self.folder, CPU)[0], placed, placed)
        )
        assert torch.equal(whole, first) and torch.equal(first, second)
        return whole, self.stock(batch.ids, use_cache=False).logits.flatten(0, 1)[batch.positions]

    def _stock_losses(self, context: list[int], continuation: list[int]) -> Tensor:
        """Return -log p of each token of a continuation, fp64 (N,), from a pass of its own."""
        logits = self.stock(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
        return -logits.double().log_softmax(-1).gather(1, torch.tensor(continuation)[:, None])[:, 0]


def batch_of(requests: list[tuple[list[int], list[int]]]) -> Batch:
    return collate([Example(context + continuation, len(context)) for context, continuation in requests])


def requests_of(length: str) -> list[tuple[list[int], list[int]]]:
    return [(context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS[length]]


# What is compared, and the difference that another order of sums makes in fp32. The sum of 70 losses is itself rounded
# to 3e-5.
RESULTS = {
    "loss": (Pair.losses, 1e-5),
    "gradient": (Pair.gradients, 1e-5),
    "teacher": (Pair.teacher, 1e-5),
    "short": (partial(Pair.log_likelihoods, length="short"), 3e-5),
    "long": (partial(Pair.log_likelihoods, length="long"), 1e-4),
}


@pytest.mark.long
@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_has_the_results_of_stock_transformers(tmp_path, name, result):
    compute, bound = RESULTS[result]
    ours, theirs = compute(Pair(name, tmp_path))
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() < bound
