"""Measure the speed of one cell's training at one batch size on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

    measure_cerebras.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --data_dir data/boolq --batch_size 64 \
        --micro_batch_size 64 --steps 110 --warmup_steps 10 --output_dir FOLDER

Run it with the python of the environment that has cerebras-pytorch. It writes measurement.json with one repeat, and
join_measurements.py joins all repeats of a cell. --steps includes the steps of the warm-up. --fill_sequences cuts or
repeats every example to --sequence_length.
"""

from typing import Any

from cyclopts.types import NonNegativeInt

from sparseft.axes.grid import RUN_ID, Cell, training_name
from sparseft.common.command import Flags
from sparseft.common.errors import InputError
from sparseft.evaluation.throughput_record import MeasurementRecord
from sparseft.stages.measure_throughput import needs  # noqa: F401
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.config import Config
from sparseft.training.job_flags import JobFlags
from sparseft.training.settings import MEASURED_KEYS, Throughput, Training
from sparseft.training.trainers.backends.cerebras import LEAST_TIMED_STEPS, CerebrasJob


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides one measurement of a batch size."""
    measured = config.throughput
    training = config.training_of(wildcards.task, training_name(wildcards.training))
    schedule = measured.schedule(training, int(wildcards.batch_size)).model_dump(
        exclude=Training.unused_in(wildcards.mode)
    )
    given = {
        "run_id": RUN_ID.format(**vars(wildcards)),
        "threads": config.resources.threads,
        "evaluation_batch_size": config.evaluation_batch_size,
        "warmup_steps": measured.warmup_steps,
    }
    if measured.sequence_length:
        given |= {"sequence_length": measured.sequence_length, "fill_sequences": True}
    return given | schedule | config.cerebras.deciding | given


def effort(config: Config, wildcards: Any) -> dict:
    """Return what says where and when the measurement runs."""
    return config.cerebras.placing


# Raise it when the results change.
VERSION = 1


def run(
    *,
    flags: Flags[JobFlags],
    cerebras: Flags[CerebrasJob] = CerebrasJob(),
    warmup_steps: NonNegativeInt = Throughput().warmup_steps,
    fill_sequences: bool = False,
) -> None:
    """Read the job, measure it, and write its record.

    Args:
        warmup_steps: steps before the measured ones, of --steps
        fill_sequences: use examples of --sequence_length tokens
    """
    from sparseft.models.language_model.hardware import start
    from sparseft.training.job import job_of

    start(flags.threads, flags.gpus)
    output = flags.output_dir / "measurement.json"
    claim_record(output, output.stem, [])
    job = job_of(flags, version=VERSION)
    steps = job.settings.steps - warmup_steps
    least = LEAST_TIMED_STEPS if cerebras.on_csx else 1
    if steps < least:
        what = f"--steps {job.settings.steps}: {max(0, steps)} steps after the warm-up"
        raise InputError(what, f"measure at least {least} (throughput.steps)")
    # Here, because these imports refuse an environment without the package, and other bad input is reported first.
    from sparseft.training.trainers.cerebras.training import measure

    measured = measure(job, cerebras, flags.output_dir, warmup=warmup_steps, fill=fill_sequences)
    record = MeasurementRecord(
        cell=Cell.parse(flags.run_id.rpartition("-seed")[0]).id,
        threads=flags.threads,
        **job.settings.model_dump(exclude=MEASURED_KEYS),
        sequence_length=cerebras.sequence_length if fill_sequences else None,
        warmup_steps=warmup_steps,
        steps=steps,
        inputs={
            "model": job.checkpoint.digest,
            "mask": job.provenance["mask_sha256"],
            "train": job.rows_sha256["train"],
        },
        batch_size=job.settings.batch_size,
        seed=job.seed,
        **measured,
    )
    write(output, record)
