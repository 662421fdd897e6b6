"""Test the places of tensors in a ModelZoo model, and how the rows of q and k are permuted."""

import numpy as np
from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.modelzoo_checkpoint import Place, places
from tiny_models import MODELS

LAYER = "transformer_decoder.layers.1."
# As ModelZoo 2.10.0's own models call their parameters, without the leading "model.".
PLACES = {
    "model.embed_tokens": Place("embedding_layer.word_embeddings.weight"),
    "model.norm": Place("transformer_decoder.norm.weight"),
    "lm_head": Place("lm_head.weight"),
    "model.layers.1.input_layernorm": Place(f"{LAYER}norm1.weight"),
    "model.layers.1.post_attention_layernorm": Place(f"{LAYER}norm3.weight"),
    "model.layers.1.self_attn.q_proj": Place(f"{LAYER}self_attn.proj_q_dense_layer.weight", head_dim=8),
    "model.layers.1.self_attn.k_proj": Place(f"{LAYER}self_attn.proj_k_dense_layer.weight", head_dim=8),
    "model.layers.1.self_attn.v_proj": Place(f"{LAYER}self_attn.proj_v_dense_layer.weight"),
    "model.layers.1.self_attn.o_proj": Place(f"{LAYER}self_attn.proj_output_dense_layer.weight"),
    "model.layers.1.mlp.gate_proj": Place(f"{LAYER}ffn.ffn.0.linear_layer_for_glu.weight"),
    "model.layers.1.mlp.up_proj": Place(f"{LAYER}ffn.ffn.0.linear_layer.weight"),
    "model.layers.1.mlp.down_proj": Place(f"{LAYER}ffn.ffn.1.linear_layer.weight"),
    "model.layers.1.block_sparse_moe.gate": Place(f"{LAYER}ffn.gate.weight"),
}
for name, module in (("w1", "0.linear_layer_for_glu"), ("w3", "0.linear_layer"), ("w2", "1.linear_layer")):
    place = Place(f"{LAYER}ffn.experts.fused_ffns.{module}.expert_weights", expert=3)
    PLACES[f"model.layers.1.block_sparse_moe.experts.3.{name}"] = place


def test_every_kind_of_tensor_has_the_place_that_modelzoo_gives_it():
    found: dict[str, Place] = {}
    for name in ("llama", "mistral", "mixtral"):
        _, config = MODELS[name]
        plain = config.to_dict() | {"architectures": [f"{config.model_type.capitalize()}ForCausalLM"]}
        found |= places(plain, tensor_shapes(plain, "here"))
    assert {layer: found[f"{layer}.weight"] for layer in PLACES} == PLACES
    assert len(found) == 3 + 2 * (2 + 4 + 3 + 1 + 4 * 3)


def test_two_heads_by_hand():
    rows = np.array([[0], [1], [2], [3], [10], [11], [12], [13]])
    place = Place("", head_dim=4)
    assert place.to_modelzoo(rows).ravel().tolist() == [0, 2, 1, 3, 10, 12, 11, 13]
    assert np.array_equal(place.to_hugging_face(place.to_modelzoo(rows)), rows)
