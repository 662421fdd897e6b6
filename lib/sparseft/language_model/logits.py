"""Compute logits from the hidden states that a decoder returned. Every loss and evaluation does it here or by a whole pass."""

from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast


def logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits (B, T, V) of the hidden states (B, T, H), as the model's own forward computes them.

    So whatever a class does with the output of lm_head is done: Granite scales it, and Gemma caps it."""
    decoder = model.get_decoder()
    # The attribute hides the method of the class until it is deleted.
    decoder.forward = lambda **_: MoeModelOutputWithPast(last_hidden_state=hidden)
    try:
        return model(use_cache=False).logits
    finally:
        del decoder.forward
