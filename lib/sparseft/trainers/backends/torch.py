"""The backend torch: a Hugging Face model on the CPU or the GPUs of this machine. It trains every schedule."""

from sparseft.trainers.backends.backend import Backend, StudyConfig


def _check_measured(config: StudyConfig, task: str) -> None:
    """Raise InputError if a task's training cannot be measured in one process."""
    config.check_trainings(task, lambda schedule: schedule.check_measured(), config.throughput.trainings)


TORCH = Backend("torch", check_measured=_check_measured, reconstructs=True)
