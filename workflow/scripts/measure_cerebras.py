"""Measure the speed of one cell's training at one batch size on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

    measure_cerebras.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \\
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --data_dir data/boolq --batch_size 64 \\
        --micro_batch_size 64 --steps 110 --warmup_steps 10 --output_dir FOLDER

Run it with the python of the environment that has cerebras-pytorch. It writes measurement.json with one repeat, and
join_measurements.py joins all repeats of a cell. --steps includes the steps of the warm-up. --fill_sequences cuts or repeats
every example to --sequence_length. With --compile_only it compiles and writes only compile.json.
"""

import argparse

from sparseft.errors import InputError, run_script
from sparseft.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.records.record_file import write
from sparseft.records.throughput_record import MeasurementRecord
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.record import check_record, write_record
from sparseft.study.backends.cerebras import Cerebras
from sparseft.study.config import Throughput, add_flags
from sparseft.study.grid import Cell
from sparseft.study.section import parse_section
from sparseft.training.job import TrainingJob, add_job_flags, job_flags_of, job_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_flags(parser)
    add_flags(parser, Cerebras, Cerebras.flags())
    add_flags(parser, Throughput, ["warmup_steps"])
    parser.add_argument("--fill_sequences", action="store_true", help="use examples of --sequence_length tokens")
    parser.add_argument("--compile_only", action="store_true", help="compile on the appliance; measure nothing")
    return parser.parse_args()


def conditions(args: argparse.Namespace, job: TrainingJob, warmup: int) -> dict:
    """Return the fields that all repeats of a cell share."""
    return {
        "cell": Cell.parse(args.run_id.rpartition("-seed")[0]).id,
        "threads": args.threads,
        **job.settings.model_dump(exclude=Throughput.DECIDED),
        "sequence_length": int(args.sequence_length) if args.fill_sequences else None,
        "warmup_steps": warmup,
        "steps": job.settings.steps - warmup,
        "inputs": {
            "model": job.checkpoint.digest,
            "mask": job.provenance["mask_sha256"],
            "train": job.rows_sha256["train"],
        },
    }


def checked(args: argparse.Namespace) -> tuple[TrainingJob, Cerebras, int]:
    """Return the job, the section `cerebras` and the number of warm-up steps. Raises InputError for what does not fit."""
    cerebras = parse_section(Cerebras, {name: getattr(args, name) for name in Cerebras.flags()}, "cerebras")
    warmup = parse_section(Throughput, {"warmup_steps": args.warmup_steps}, "throughput").warmup_steps
    job = job_of(job_flags_of(args))
    if job.settings.steps <= warmup:
        raise InputError(f"--steps {job.settings.steps}: no step remains after {warmup} of warm-up", "give more steps")
    cerebras.check_measured(Throughput(steps=job.settings.steps - warmup))
    return job, cerebras, warmup


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    keep_freed_memory()
    check_apart([args.output_dir], [args.model_path, args.mask_path, args.data_dir])
    output = args.output_dir / ("compile.json" if args.compile_only else "measurement.json")
    check_record(output, output.stem)
    job, cerebras, warmup = checked(args)
    # Here, because these imports refuse an environment without the package, and other bad input is reported first.
    from sparseft.backends.cerebras.measurement import measure, without_evaluation
    from sparseft.backends.cerebras.training import lower

    hold(output)
    if args.compile_only:
        training = without_evaluation(job)
        program = lower(training, cerebras, args.output_dir, compile_only=True, fill=args.fill_sequences)
        write_record(output, {"record": output.stem, **program})
    else:
        measured = measure(job, cerebras, args.output_dir, warmup=warmup, fill=args.fill_sequences)
        own = {"batch_size": job.settings.batch_size, "seed": job.seed}
        write(output, MeasurementRecord(**conditions(args, job, warmup), **measured, **own))
    return 0


if __name__ == "__main__":
    run_script(main)
