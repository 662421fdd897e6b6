"""Test the places of tensors in a ModelZoo model, and how the rows of q and k are permuted."""

import numpy as np
from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.modelzoo_checkpoint import Place, places
from tiny_models import MODELS

LAYER = "transformer_decoder.layers.1."
# As ModelZoo 2.10.0's own Mixtral calls its parameters, without the leading "model.". Nothing else compares them.
PLACES = {
    "self_attn.q_proj": Place(f"{LAYER}self_attn.proj_q_dense_layer.weight", head_dim=8),
    "block_sparse_moe.gate": Place(f"{LAYER}ffn.gate.weight"),
    "block_sparse_moe.experts.3.w1": Place(
        f"{LAYER}ffn.experts.fused_ffns.0.linear_layer_for_glu.expert_weights", expert=3
    ),
    "block_sparse_moe.experts.3.w3": Place(f"{LAYER}ffn.experts.fused_ffns.0.linear_layer.expert_weights", expert=3),
    "block_sparse_moe.experts.3.w2": Place(f"{LAYER}ffn.experts.fused_ffns.1.linear_layer.expert_weights", expert=3),
}


def test_a_mixture_has_the_names_that_modelzoo_gives_it():
    config = MODELS["mixtral"][1].to_dict() | {"architectures": ["MixtralForCausalLM"]}
    found = places(config, tensor_shapes(config, "here"))
    assert {layer: found[f"model.layers.1.{layer}.weight"] for layer in PLACES} == PLACES


def test_two_heads_by_hand():
    rows = np.array([[0], [1], [2], [3], [10], [11], [12], [13]])
    place = Place("", head_dim=4)
    assert place.to_modelzoo(rows).ravel().tolist() == [0, 2, 1, 3, 10, 12, 11, 13]
    assert np.array_equal(place.to_hugging_face(place.to_modelzoo(rows)), rows)
