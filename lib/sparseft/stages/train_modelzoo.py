"""Train the adapter of one run with Cerebras ModelZoo's Trainer.

    train_modelzoo.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --exported modelzoo/llama/sparsity50_unstructured \
        --data_dir data/boolq --output_dir RUN_FOLDER

MODELZOO_HOME names the checkout of ModelZoo, with its .venv. It writes adapter/ and train.json, as train.py does, the
Trainer's configuration, trainer.yaml, and its logs, modelzoo/. A killed run continues from the last complete checkpoint
in RUN_FOLDER/modelzoo.
"""

from pathlib import Path

from sparseft.common.command import Flags
from sparseft.stages.train_cerebras import effort, needs, settings  # noqa: F401
from sparseft.storage.locks import hold
from sparseft.training.job_flags import JobFlags
from sparseft.training.trainers.backends.cerebras import CerebrasJob

# Raise it when the results change.
VERSION = 1


def run(*, flags: Flags[JobFlags], exported: Path, cerebras: Flags[CerebrasJob] = CerebrasJob()) -> None:
    """Read the job, train it with ModelZoo's Trainer, and write its record.

    Args:
        exported: the masked checkpoint, as export_modelzoo.py writes it
    """
    from sparseft.models.language_model.hardware import start
    from sparseft.training.job import job_of, write_train_record
    from sparseft.training.trainers.modelzoo.trainer_files import trainer_run
    from sparseft.training.trainers.modelzoo.training import train

    start(flags.threads, flags.gpus)
    job = job_of(flags, inputs=[exported], version=VERSION)
    cerebras.check(job.settings)
    hold(job.output)
    trainer = trainer_run(job, cerebras, exported, flags.output_dir)
    write_train_record(flags, job, train(trainer))
    trainer.remove_states()
