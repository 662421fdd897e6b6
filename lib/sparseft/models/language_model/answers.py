"""Let a model answer prompts. Calibrated on its own answers, a pruned reasoning model keeps more than on other texts
(microsoft/DeepSpeedExamples, pull request 1006)."""

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from sparseft.common.progress import show

# Tokens of an answer at most.
LONGEST = 512


@torch.no_grad()
def answers(model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[str], seed: int) -> list[str]:
    """Return each prompt with the answer that the model samples at temperature 1, as the chat template writes both.

    Without a chat template, the model continues the prompt."""
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    # What the model's own generation_config.json sets would fill what is unset.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=LONGEST, eos_token_id=end, pad_token_id=end
    )
    texts = []
    for prompt in show(prompts, "answer", len(prompts)):
        if tokenizer.chat_template:
            message = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(
                message, add_generation_prompt=True, return_tensors="pt", return_dict=False
            )
        else:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
        made = model.generate(ids.to(model.device), generation_config=settings)
        texts.append(tokenizer.decode(made[0]))
    return texts
