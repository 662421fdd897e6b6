"""The backend modelzoo: Cerebras ModelZoo's own Trainer, on a CS-3 or on cerebras-pytorch's CPU backend."""

from dataclasses import replace

from sparseft.axes.architectures import LLAMA, MISTRAL
from sparseft.training.trainers.backends.cerebras import CEREBRAS

MODELZOO = replace(
    CEREBRAS,
    name="modelzoo",
    # ModelZoo's Lora skips stacked experts, so it would train only the attention of a Mixtral.
    architectures=(LLAMA, MISTRAL),
    measures=False,
    evaluates=False,
)
