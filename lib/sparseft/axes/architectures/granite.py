"""Describe Granite 3: LLaMA's decoder with four multipliers.

config.json has them: embedding_multiplier, residual_multiplier, attention_multiplier in the place of 1 /
sqrt(head_dim), and logits_scaling, by which the output of lm_head is divided.
Source: Granite Team 2024, github.com/ibm-granite/granite-3.0-language-models.
"""

from dataclasses import replace

from sparseft.axes.architectures import decoder

GRANITE = replace(
    decoder.DECODER,
    class_name="GraniteForCausalLM",
    models="Granite 3",
    differences="multipliers of the embeddings, the blocks, the attention and the logits",
)
