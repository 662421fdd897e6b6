"""Compare wanda on a text with its definition, which stock transformers computes, on the default model.

The definition is that of Sun et al. 2023, arXiv 2306.11695, in the order of its code: layer by layer, each from the outputs of the
pruned layers before it.
"""

from pathlib import Path

import pytest
import torch
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.methods import get_method
from sparseft.pruning.calibration import calibrate_on_text
from sparseft.study.sources import CalibrationText
from sparseft.tasks.rows import DOCUMENT_BREAK, read_documents
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from masks import compute_masks

WIKITEXT = Path(__file__).parents[3] / "shared/data/wikitext2"
TEXT = WIKITEXT / "train.jsonl"
METHOD = "unstructured_wanda_on_wikitext"
SETTINGS = CalibrationText(text=str(TEXT), examples=8, length=128)
CONTEXT, WINDOWS = 256, 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WIKITEXT.exists(), reason="needs the developers' folder ../shared"),
]


def calls_of_layers(model: nn.Module, ids: Tensor) -> list[tuple[Tensor, dict]]:
    """Return the hidden states and the keywords with which a whole forward pass calls each decoder layer."""
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, states, words: calls.append((states[0], words)), with_kwargs=True)
        for layer in model.model.layers
    ]
    model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return calls


class Scaler:
    """Compute scaler_row of one linear layer, fp32 (cols,): the mean over the samples of the squared norm of each input."""

    def __init__(self, linear: nn.Linear) -> None:
        self.row = torch.zeros(linear.in_features)
        self.samples = 0
        self.hook = linear.register_forward_hook(self.add)

    def add(self, _, inputs: tuple[Tensor, ...], __) -> None:
        """Add one sample, (1, tokens, cols)."""
        self.row *= self.samples / (self.samples + 1)
        self.samples += 1
        self.row += torch.linalg.vector_norm(inputs[0][0].float(), dim=0) ** 2 / self.samples


@torch.no_grad()
def defined_masks(model: nn.Module, windows: list[list[int]]) -> dict[str, Tensor]:
    """Prune half of every row of the model by wanda. Return the masks, bool (rows, cols), True = kept."""
    calls = [calls_of_layers(model, torch.tensor([window])) for window in windows]
    hidden = [call[0][0] for call in calls]
    kept = {}
    for number, layer in enumerate(model.model.layers):
        words = [call[number][1] for call in calls]
        linears = {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
        scalers = {name: Scaler(linear) for name, linear in linears.items()}
        for states, options in zip(hidden, words, strict=True):
            layer(states, **options)
        for name, linear in linears.items():
            scalers[name].hook.remove()
            score = linear.weight.abs() * scalers[name].row.sqrt()
            lowest = score.sort(dim=1, stable=True).indices[:, : score.shape[1] // 2]
            mask = torch.ones_like(score, dtype=torch.bool).scatter(1, lowest, False)
            linear.weight *= mask
            kept[f"model.layers.{number}.{name}"] = mask
        hidden = [layer(states, **options) for states, options in zip(hidden, words, strict=True)]
    return kept


def test_wanda_on_a_text_is_the_definition_on_stock_transformers(default_model):
    checkpoint = Checkpoint(default_model)
    calibration = calibrate_on_text(get_method(METHOD), TEXT, SETTINGS)
    mask = compute_masks(checkpoint, METHOD, [50], calibration, calibration={"wikitext": SETTINGS})[50]
    windows = [example.ids for example in calibration.examples_of(checkpoint)]
    model = AutoModelForCausalLM.from_pretrained(default_model, dtype="auto").eval()
    expected = defined_masks(model, windows)
    assert expected.keys() == mask.shape.keys()
    differing = {
        layer: float((torch.from_numpy(mask.kept(layer)) != kept).float().mean()) for layer, kept in expected.items()
    }
    shares = [max(share for layer, share in differing.items() if f".{number}." in layer) for number in range(30)]
    assert shares[:2] == [0, 0]
    # Later, near-ties fall differently, because the two sum the squares of the inputs in another order.
    assert max(shares) < 0.01
    tokenizer = AutoTokenizer.from_pretrained(default_model)
    text = DOCUMENT_BREAK.join(read_documents(WIKITEXT / "validation.jsonl")[0])
    published = token_perplexity(model, tokenizer, text, CONTEXT, WINDOWS)
    with torch.no_grad():
        for layer in mask.shape:
            weight = torch.from_numpy(checkpoint.read_float32(f"{layer}.weight"))
            model.get_submodule(layer).weight.copy_(weight * torch.from_numpy(mask.kept(layer)))
    ours = token_perplexity(model, tokenizer, text, CONTEXT, WINDOWS)
    assert ours == pytest.approx(published, rel=0.01)
