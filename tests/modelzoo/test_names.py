"""Test why q and k are permuted, and that weights, masks and adapters are permuted in the same way."""

import numpy as np
import torch
from sparseft.architectures import tensor_shapes
from sparseft.checkpoints.modelzoo_checkpoint import Place, places
from tiny_models import MODELS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

HEADS, HEAD_DIM, HIDDEN, TOKENS = 3, 8, 10, 5
RNG = np.random.default_rng(0)
W = RNG.integers(-9, 9, (HEADS * HEAD_DIM, HIDDEN)).astype(np.float32)
ANGLES = torch.arange(TOKENS)[:, None] * 100.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM / 2))  # (T, d/2)


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
    "model.layers.1.block_sparse_moe.experts.3.w1": Place(
        f"{LAYER}ffn.experts.fused_ffns.0.linear_layer_for_glu.expert_weights", expert=3
    ),
    "model.layers.1.block_sparse_moe.experts.3.w3": Place(
        f"{LAYER}ffn.experts.fused_ffns.0.linear_layer.expert_weights", expert=3
    ),
    "model.layers.1.block_sparse_moe.experts.3.w2": Place(
        f"{LAYER}ffn.experts.fused_ffns.1.linear_layer.expert_weights", expert=3
    ),
}


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


def rotated_pairs(rows: torch.Tensor) -> torch.Tensor:
    """Return rows (heads, T, d) after RoFormer's rotation of neighbours (arXiv 2104.09864, equation 34)."""
    pairs = torch.view_as_complex(rows.reshape(*rows.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(ANGLES), ANGLES)).flatten(-2)


def test_attention_scores_are_the_same_with_rotated_neighbours():
    """Hugging Face's rotation of its rows gives the same q k^T as the rotation of neighbours on the permuted rows."""
    x = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(0))

    def heads(weight: np.ndarray) -> torch.Tensor:
        return (x @ torch.from_numpy(weight).T).view(TOKENS, HEADS, HEAD_DIM).transpose(0, 1)

    K = np.roll(W, 1, axis=1)
    cos, sin = (torch.cat([part, part], -1)[None] for part in (ANGLES.cos(), ANGLES.sin()))
    q, k = apply_rotary_pos_emb(heads(W)[None], heads(K)[None], cos, sin)
    q_cs, k_cs = (rotated_pairs(heads(Place("", head_dim=HEAD_DIM).to_modelzoo(weight))) for weight in (W, K))
    torch.testing.assert_close(q_cs @ k_cs.transpose(1, 2), (q @ k.transpose(2, 3))[0], rtol=1e-5, atol=1e-4)
    wrong = rotated_pairs(heads(W)) @ rotated_pairs(heads(K)).transpose(1, 2)
    assert (wrong - (q @ k.transpose(2, 3))[0]).abs().max() > 1
