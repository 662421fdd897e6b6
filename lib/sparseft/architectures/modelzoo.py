"""Map the names of Hugging Face's tensors to those of Cerebras ModelZoo, releases 2.1 to 2.10.

Names of a decoder layer are those within the layer, in ModelZoo `transformer_decoder.layers.N`. The experts of a layer
are stacked in one parameter on axis 1: (out, experts, in). ModelZoo leaves its leading "model." to trainer checkpoints.
Source: github.com/Cerebras/modelzoo, Release_2.10.0, src/cerebras/modelzoo/tools/checkpoint_converters/{llama,mixtral}.py.
"""

# Of these matrices ModelZoo interleaves the rows of each head, because its rotary embedding pairs neighbouring rows.
ROTATED = ("self_attn.q_proj", "self_attn.k_proj")

NAMES = {
    "model.embed_tokens": "embedding_layer.word_embeddings.weight",
    "model.norm": "transformer_decoder.norm.weight",
    "lm_head": "lm_head.weight",
    "input_layernorm": "norm1.weight",
    "post_attention_layernorm": "norm3.weight",
    "self_attn.q_proj": "self_attn.proj_q_dense_layer.weight",
    "self_attn.k_proj": "self_attn.proj_k_dense_layer.weight",
    "self_attn.v_proj": "self_attn.proj_v_dense_layer.weight",
    "self_attn.o_proj": "self_attn.proj_output_dense_layer.weight",
    "mlp.gate_proj": "ffn.ffn.0.linear_layer_for_glu.weight",
    "mlp.up_proj": "ffn.ffn.0.linear_layer.weight",
    "mlp.down_proj": "ffn.ffn.1.linear_layer.weight",
    "block_sparse_moe.gate": "ffn.gate.weight",
    "block_sparse_moe.experts.{expert}.w1": "ffn.experts.fused_ffns.0.linear_layer_for_glu.expert_weights",
    "block_sparse_moe.experts.{expert}.w3": "ffn.experts.fused_ffns.0.linear_layer.expert_weights",
    "block_sparse_moe.experts.{expert}.w2": "ffn.experts.fused_ffns.1.linear_layer.expert_weights",
}
