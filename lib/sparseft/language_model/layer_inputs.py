"""Find what enters the decoder layers of a model, so that they can be computed one after the other."""

from torch import Tensor, nn


def layer_arguments(model: nn.Module, ids: Tensor) -> tuple[Tensor, list[dict]]:
    """Return the hidden states (B, T, H) that enter the first decoder layer for `ids` (B, T), and each layer's keywords.

    The layers may have different masks and rotary angles. They compute nothing here. Each layer notes its keywords, and
    returns the hidden states as they are."""
    inputs: list[Tensor] = []
    keywords: list[dict] = []

    def note(states: Tensor, **layer_keywords: object) -> Tensor:
        inputs.append(states)
        keywords.append(layer_keywords)
        return states

    for layer in model.model.layers:
        # The attribute hides the method of the class until it is deleted.
        layer.forward = note
    try:
        model.get_decoder()(input_ids=ids, use_cache=False)
    finally:
        for layer in model.model.layers:
            del layer.forward
    return inputs[0], keywords
