"""OLMo 2's sizes, and which of its structured masks can become a smaller model."""

import numpy as np
import pytest
import torch
from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import coupled_parts, prunable_shapes
from sparseft.errors import InputError
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import Mask, pack
from sparseft.planning.model_sizes import count
from sparseft.pruning.compact import compact
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM

from masks import write_mask

# The sizes of allenai/OLMo-2-1124-7B, config.json.
PUBLISHED = {
    "architectures": ["Olmo2ForCausalLM"],
    "model_type": "olmo2",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}


def test_the_published_model_has_its_number_of_weights():
    assert count(tensor_shapes(PUBLISHED, "here")) == 7_298_617_344


def structured(checkpoint: Checkpoint, kept: dict[str, int]) -> Mask:
    """Return the mask that keeps the first units of each group, as many as `kept` says by the key of config.json."""
    shapes = prunable_shapes(checkpoint)
    bits = {}
    for part in (part for parts in coupled_parts(checkpoint) for part in parts):
        shape = shapes[part.layer]
        channels = np.arange(shape[part.axis]) < kept[part.unit] * part.width
        bits[part.layer] = pack(np.broadcast_to(channels[:, None] if part.axis == 0 else channels, shape))
    return Mask({"method": "structured", "sparsity": 0.5}, bits, shapes)


def masked(tmp_path, kept: dict[str, int]) -> Checkpoint:
    """Return a pruned tiny model. Its mask is tmp_path/mask.pt."""
    base = Checkpoint(save_tiny("olmo2", tmp_path / "base", torch.float32))
    mask = structured(base, kept)
    write_mask(tmp_path / "mask.pt", mask)
    merge(base, mask, "m", None, tmp_path / "masked")
    return Checkpoint(tmp_path / "masked")


def test_heads_are_not_left_out_because_a_norm_spans_all_of_them(tmp_path):
    checkpoint = masked(tmp_path, {"intermediate_size": 24, "num_key_value_heads": 1})
    with pytest.raises(InputError, match="1 of 2 key-value heads.*OLMo 2.*; .*masked"):
        compact(checkpoint, tmp_path / "mask.pt", tmp_path / "small")
    assert not (tmp_path / "small").exists()


@torch.no_grad()
def test_channels_are_left_out_if_all_heads_are_kept(tmp_path):
    checkpoint = masked(tmp_path, {"intermediate_size": 24, "num_key_value_heads": 2})
    record = compact(checkpoint, tmp_path / "mask.pt", tmp_path / "small")
    assert record["after"]["config"]["intermediate_size"] == 24
    ids = torch.arange(3, 51).reshape(2, 24)
    theirs, ours = (AutoModelForCausalLM.from_pretrained(tmp_path / name)(ids).logits for name in ("masked", "small"))
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 5e-6 * theirs.abs().max()
