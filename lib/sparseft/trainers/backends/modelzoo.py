"""The backend modelzoo: Cerebras ModelZoo's own Trainer, on a CS-3 or on cerebras-pytorch's CPU backend."""

from dataclasses import replace

from sparseft.architectures import LLAMA, MISTRAL
from sparseft.errors import InputError
from sparseft.trainers.backends.backend import StudyConfig
from sparseft.trainers.backends.cerebras import CEREBRAS


def _check_measured(config: StudyConfig, task: str) -> None:
    """Raise InputError, because this backend measures no throughput."""
    raise InputError("throughput: the backend modelzoo does not measure it", "set backend: cerebras, or torch")


MODELZOO = replace(
    CEREBRAS,
    name="modelzoo",
    # ModelZoo's Lora skips stacked experts, so it would train only the attention of a Mixtral.
    architectures=(LLAMA, MISTRAL),
    check_measured=_check_measured,
    evaluates=False,
)
