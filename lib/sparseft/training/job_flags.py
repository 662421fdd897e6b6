"""Hold the flags that the trainings of all backends share."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts.types import PositiveInt

from sparseft.common.command import Flags, Folder, Threads
from sparseft.models.language_model.gpus import Gpus
from sparseft.training.settings import Training

_SCHEDULE, _GPUS = Training(), Gpus()


@dataclass(frozen=True)
class JobFlags:
    """Hold the flags that the trainings of all backends share.

    Args:
        run_id: the run; names the task, the mode and the seed
        model_path: folder of the prepared model
        mask_path: the run's mask file
        data_dir: folder with train.jsonl, and with validation.jsonl if the training is evaluated
        output_dir: the run's folder
        threads: CPU threads; another number changes the last bits
        evaluation_batch_size: sequences per forward pass of an evaluation loss
    """

    run_id: str
    model_path: Folder
    mask_path: Path
    data_dir: Path
    output_dir: Path
    threads: Threads = 1
    gpus: Flags[Gpus] = _GPUS
    evaluation_batch_size: PositiveInt = 32
    training: Flags[Training] = _SCHEDULE
