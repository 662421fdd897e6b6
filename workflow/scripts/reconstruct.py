"""Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.

    reconstruct.py --run_id smollm2-boolq_mini-unstructured-sparsity50-reconstruct-seed0 --model_path models/smollm2 \\
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER \\
        --text c4.jsonl

Writes adapter/ and train.json, as train.py does. --steps, --batch_size and --learning_rate are those of each decoder layer.
All examples of a step are in one forward pass, so --micro_batch_size, --gradient_checkpointing, --cache_weights and
--eval_every have no effect. A killed run continues after the last decoder layer in RUN_FOLDER/state.pt, unless --save_every is
0. Without --text, the layers are reconstructed on training examples of the task.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from sparseft.backends.torch import DenseTarget, reconstruct
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, run_script
from sparseft.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.pruning.calibration import calibration_examples
from sparseft.pruning.calibration_text import text_examples
from sparseft.storage.locks import hold
from sparseft.study.config import Masks, Reconstruction
from sparseft.study.grid import RECONSTRUCTING_MODES
from sparseft.study.section import parse_section
from sparseft.study.sources import CalibrationText
from sparseft.tasks.documents import read_documents
from sparseft.training.job import TrainingJob, add_job_flags, check_outputs, job_of, write_train_record


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_flags(parser)
    parser.add_argument(
        "--dense_path", type=Path, help="the dense model, if --model_path is a pruned base with other weights"
    )
    parser.add_argument("--text", type=Path, help="the text on which the layers are reconstructed, .jsonl or .txt")
    number = Reconstruction.model_fields["examples"].default
    parser.add_argument(
        "--calibration_examples", type=int, default=number, help=f"windows of --text, or training examples ({number})"
    )
    length = CalibrationText.model_fields["length"].default
    parser.add_argument("--calibration_length", type=int, default=length, help=f"tokens per window ({length})")
    seed = Masks.model_fields["calibration_seed"].default
    parser.add_argument("--calibration_seed", type=int, default=seed, help=f"seed that chooses them ({seed})")
    return parser.parse_args()


def of_each_layer(job: TrainingJob) -> TrainingJob:
    """Return the job with the schedule that each decoder layer has, which is also what train.json records."""
    own = {name: getattr(job.settings, name) for name in ("steps", "batch_size", "learning_rate")}
    return replace(job, settings=Reconstruction(**own).schedule(job.settings))


def dense_target(args: argparse.Namespace, job: TrainingJob) -> tuple[DenseTarget, dict]:
    """Return the dense model with the examples, and how train.json describes the examples.

    Raises InputError if the dense model is not the one that was pruned, or if there are too few examples."""
    dense = Checkpoint(args.dense_path) if args.dense_path else job.checkpoint
    if dense.digest != job.mask.meta.get("original", job.checkpoint.digest):
        raise InputError(f"{dense.folder}: not the model that was pruned", "give the dense model with --dense_path")
    chosen = {"examples": args.calibration_examples, "seed": args.calibration_seed}
    parse_section(Masks, {"calibration_seed": chosen["seed"]}, "masks")
    if args.text is None:
        examples = calibration_examples(
            dense,
            job.task,
            job.rows["train"],
            number=args.calibration_examples,
            seed=args.calibration_seed,
            key="reconstruction.examples",
        )
        return DenseTarget(dense, examples), chosen
    chosen["length"] = args.calibration_length
    text = parse_section(CalibrationText, {"text": str(args.text), **chosen}, "reconstruction")
    documents, digest = read_documents(args.text)
    examples = text_examples(dense, documents, text, args.text)
    return DenseTarget(dense, examples), {**chosen, "text_sha256": digest}


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    check_outputs(args, args.dense_path, args.text)
    job = of_each_layer(job_of(args, RECONSTRUCTING_MODES))
    if job.settings.stop_if_loss_above is not None:
        raise InputError(
            "--stop_if_loss_above: a reconstruction never ends early, because its loss is a share of an error",
            "leave it and --stop_if_after_steps out",
        )
    keep_freed_memory()
    adapter = args.output_dir / "adapter"
    state = args.output_dir / "state.pt"
    hold(adapter)
    target, chosen = dense_target(args, job)
    measured = reconstruct(job, target, adapter, state if job.settings.save_every else None)
    measured["reconstruction"] |= chosen
    write_train_record(args, job, measured, dense=target.checkpoint.digest)
    state.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    run_script(main)
