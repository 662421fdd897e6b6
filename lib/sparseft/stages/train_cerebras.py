"""Train the adapter of one run on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

    train_cerebras.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --data_dir data/boolq --target CSX \
        --output_dir RUN_FOLDER

Run it with the python of the environment that has cerebras-pytorch. It writes adapter/ or weights/, and train.json, as
train.py does, and the package's logs, cerebras_logs/. A killed run continues from RUN_FOLDER's last complete
state_*.mdl.

With --compile_only it only compiles, and with --validate_only it only lowers the program, which needs no appliance.
"""

from typing import Any

from sparseft.common.command import Flags
from sparseft.stages import train
from sparseft.stages.train import needs  # noqa: F401
from sparseft.storage.locks import hold
from sparseft.study.config import Config
from sparseft.training.job_flags import JobFlags
from sparseft.training.trainers.backends.cerebras import CerebrasJob


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the result of a training on the appliance."""
    return train.settings(config, wildcards) | config.cerebras.deciding


def effort(config: Config, wildcards: Any) -> dict:
    """Return what changes no number. run_on_appliance.py adds the labels."""
    return train.effort(config, wildcards) | config.cerebras.placing


# Raise it when the results change.
VERSION = 1


def run(
    *,
    flags: Flags[JobFlags],
    cerebras: Flags[CerebrasJob] = CerebrasJob(),
    compile_only: bool = False,
    validate_only: bool = False,
) -> None:
    """Read the job, train or lower it, and write its record.

    Args:
        compile_only: compile on the appliance; train nothing
        validate_only: lower the program without an appliance; train nothing
    """
    from sparseft.models.language_model.hardware import start
    from sparseft.training.job import job_of, write_train_record

    start(flags.threads, flags.gpus)
    job = job_of(flags, evaluates=True, version=VERSION)
    # Here, because these imports refuse an environment without the package, and other bad input is reported first.
    from sparseft.training.trainers.cerebras.package import saved_mdl
    from sparseft.training.trainers.cerebras.training import lower, train

    hold(job.output)
    if compile_only or validate_only:
        lower(job, cerebras, flags.output_dir, compile_only=compile_only, validate_only=validate_only)
        return
    record = train(job, cerebras, flags.output_dir)
    write_train_record(flags, job, record)
    for state in saved_mdl(flags.output_dir):
        state.unlink()
