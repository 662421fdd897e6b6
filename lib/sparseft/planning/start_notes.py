"""What a study should know before it starts: settings that nothing uses, and a machine that could be faster."""

from sparseft.planning.devices import slow_bfloat16
from sparseft.study.config import Config


def start_notes(config: Config, gpus: int, *, is_queued: bool) -> list[str]:
    """Return what a user should know before a study starts, the most important last: settings that nothing uses, and a
    machine that could be faster.

    `gpus` is the number of GPUs of this machine. If jobs wait in the queue of a cluster, they run on other machines."""
    notes = config.unused_training()
    if config.resources.gpus or is_queued or not config.training_backend.uses_this_machine:
        return notes
    if slow_bfloat16():
        for name in config.grid.models:
            if config.models[name].dtype == "bfloat16":
                setting = f"--config 'models={{{name}: {{dtype: float32}}}}'"
                notes.append(f"this CPU multiplies bfloat16 eight times slower than float32; faster: {setting}")
    if gpus:
        notes.append(
            f"GPUs of this machine: {gpus}, and resources.gpus is 0, so that every job runs on the CPU; to train on a GPU set"
            " resources.gpus: 1, as in --config 'resources={gpus: 1}'"
        )
    return notes
