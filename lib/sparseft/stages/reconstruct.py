"""Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.

    reconstruct.py --run_id smollm2-boolq_mini-unstructured-sparsity50-reconstruct-seed0 --model_path models/smollm2 \
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER \
        --text c4.jsonl

Writes adapter/ and train.json, as train.py does. --steps, --batch_size and --learning_rate are those of each decoder
layer. All examples of a step are in one forward pass, so --micro_batch_size, --gradient_checkpointing, --cache_weights
and --eval_every have no effect. Nor has --distillation, because every decoder layer learns from the dense one. A killed
run continues after the last decoder layer in RUN_FOLDER/state.pt, unless --save_every is 0. Without --text, the layers
are reconstructed on training examples of the task.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts.types import NonNegativeInt, PositiveInt

from sparseft.axes.grid import RECONSTRUCTING_MODES
from sparseft.common.command import Flags, Folder
from sparseft.data.settings import Choice
from sparseft.data.texts import given_text
from sparseft.pruning.masks.settings import Masks
from sparseft.stages import train
from sparseft.storage.locks import hold
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, adapter_bytes, calibration_lengths
from sparseft.training.job_flags import JobFlags
from sparseft.training.settings import Reconstruction

if TYPE_CHECKING:
    from sparseft.models.language_model.batches import Example
    from sparseft.training.job import TrainingJob


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the result of a reconstruction."""
    return train.settings(config, wildcards) | config.reconstruction_examples()


# Raise it when the results change.
VERSION = 1


@dataclass(frozen=True)
class TargetFlags:
    """Choose the dense model, and the examples on which its outputs are the target.

    Args:
        dense_path: the dense model, if --model_path is a pruned base with other weights
        text: the text on which the layers are reconstructed, .jsonl or .txt
        calibration_examples: windows of --text, or training examples
        calibration_length: tokens per window; by default 2048
        calibration_seed: seed that chooses them
        calibration_choice: how windows are chosen, shuffled by default; get_c4 as wanda's code
    """

    dense_path: Folder | None = None
    text: Path | None = None
    calibration_examples: PositiveInt = Reconstruction.model_fields["examples"].default
    calibration_length: int | None = None
    calibration_seed: NonNegativeInt = Masks.model_fields["calibration_seed"].default
    calibration_choice: Choice | None = None


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a reconstruction of one decoder layer after the other needs."""
    section, model = config.reconstruction, sizes_of(job.model)
    settings = config.training_of(job.task, job.training)
    lengths = calibration_lengths(config, section.calibration, job.task, section.examples)
    batch = section.batch_size * lengths.long * model.activation_bytes
    return Needs(
        model,
        device=adapter_bytes(config, settings, model) + model.layer_and_outside + batch,
        # What enters the decoder layers of the dense and of the pruned model.
        host=2 * model.state * lengths.rows[0] * lengths.mean,
        # Every layer computes all examples three times without a gradient: dense, pruned, and reconstructed.
        tokens=3 * lengths.mean * (section.steps * section.batch_size + section.examples),
        kept={"adapters": 4 * model.trained_numbers(settings)},
        temporary=model.bytes,
    )


def run(*, flags: Flags[JobFlags], target: Flags[TargetFlags] = TargetFlags()) -> None:
    """Read the job, reconstruct every decoder layer, and write the record."""
    from sparseft.models.language_model.hardware import start
    from sparseft.training.job import job_of, write_train_record
    from sparseft.training.trainers.torch import reconstruct

    start(flags.threads, flags.gpus)
    job = job_of(flags, RECONSTRUCTING_MODES, dense_path=target.dense_path, inputs=[target.text], version=VERSION)
    # Each decoder layer has a schedule of its own, which train.json records.
    keys = job.settings.model_dump(include={"steps", "batch_size", "learning_rate"})
    job = replace(job, settings=Reconstruction(**keys).schedule(job.settings))
    state = flags.output_dir / "state.pt"
    hold(job.output)
    examples, chosen = examples_of(target, job)
    measured = reconstruct(job, examples, state if job.settings.save_every else None)
    measured["reconstruction"] |= chosen
    write_train_record(flags, job, measured)
    state.unlink(missing_ok=True)


def examples_of(flags: TargetFlags, job: TrainingJob) -> tuple[list[Example], dict]:
    """Return the examples, and how train.json describes them. Raises InputError if there are too few."""
    from sparseft.pruning.calibration_examples import calibration_examples, read_text

    number, seed = flags.calibration_examples, flags.calibration_seed
    chosen = {"examples": number, "seed": seed}
    if flags.text is None:
        examples = calibration_examples(
            job.teacher, job.task, job.rows["train"], number=number, seed=seed, key="reconstruction.examples"
        )
        return examples, chosen
    windows = {"length": flags.calibration_length, "choice": flags.calibration_choice}
    text = given_text(flags.text, "reconstruction", **chosen, **windows)
    chosen |= {name.removeprefix("calibration_"): value for name, value in text.chosen.items()}
    examples_of, source = read_text(flags.text, text)
    return examples_of(job.teacher), {**chosen, "text_sha256": source["text_sha256"]}
