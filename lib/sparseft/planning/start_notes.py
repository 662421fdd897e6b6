"""What a study should know before it starts: settings that nothing uses, and a machine that could be faster."""

from sparseft.planning.devices import slow_bfloat16, unused_gpus
from sparseft.study.config import Config


def start_notes(config: Config, gpus: int, *, is_queued: bool) -> list[str]:
    """Return sentences for the user, the most important ones last. `gpus` is the number of GPUs of this machine.

    A cluster's jobs run on other machines, so nothing is said of this one if `is_queued`."""
    notes = config.unused_training()
    if config.resources.gpus or is_queued or not config.training_backend.uses_this_machine:
        return notes
    if slow_bfloat16():
        notes += [_faster(name) for name in config.grid.models if config.models[name].dtype == "bfloat16"]
    if gpus:
        notes.append(unused_gpus(gpus))
    return notes


def _faster(model: str) -> str:
    """Return the advice to use float32 for a model."""
    setting = f"--config 'models={{{model}: {{dtype: float32}}}}'"
    return f"this CPU multiplies bfloat16 eight times slower than float32; faster: {setting}"
