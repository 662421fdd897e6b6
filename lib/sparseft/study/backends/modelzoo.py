"""The backend modelzoo: Cerebras ModelZoo's own Trainer, on a CS-3 or on cerebras-pytorch's CPU backend."""

from dataclasses import replace

from sparseft.architectures import LLAMA, MISTRAL
from sparseft.errors import InputError
from sparseft.study.backends.backend import StudyConfig
from sparseft.study.backends.cerebras import CEREBRAS, CerebrasJob, check_study
from sparseft.study.section import Section


def check_schedule(cerebras: CerebrasJob, training: Section, evaluation_batch_size: int) -> None:
    """Raise InputError if ModelZoo's Trainer cannot run a schedule."""
    cerebras.check(training, evaluation_batch_size)
    if training.eval_every:
        raise InputError(
            f"training.eval_every {training.eval_every}: ModelZoo's Trainer starts its data again after each evaluation",
            "set it to 0",
        )


def _check_measured(config: StudyConfig, task: str) -> None:
    """Raise InputError, because this backend measures no throughput."""
    raise InputError("throughput: the backend modelzoo does not measure it", "set backend: cerebras, or torch")


MODELZOO = replace(
    CEREBRAS,
    name="modelzoo",
    check=lambda config: check_study(config, check_schedule),
    # ModelZoo's Lora skips stacked experts, so it would train only the attention of a Mixtral.
    architectures=(LLAMA, MISTRAL),
    check_measured=_check_measured,
    compiles_first=lambda config: False,
)
