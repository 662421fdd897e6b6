"""Train the adapter of one run on a Cerebras CS-3, or on cerebras-pytorch's CPU backend.

    train_cerebras.py --run_id llama-boolq-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/llama \\
        --mask_path masks/llama/masks_sparsity50_unstructured.pt --data_dir data/boolq --target CSX --output_dir RUN_FOLDER

Run it with the python of the environment that has cerebras-pytorch. It writes adapter/ and train.json, as train.py does, and
the package's logs, cerebras_logs/. A killed run continues from RUN_FOLDER's last complete state_*.mdl.

With --compile_only it compiles and writes only compile.json. With --validate_only it lowers the program, which needs no
appliance, and writes the same file.
"""

import argparse

from sparseft.errors import InputError, run_script
from sparseft.language_model.hardware import keep_freed_memory, limit_threads
from sparseft.storage.locks import hold
from sparseft.storage.record import check_record, write_record
from sparseft.study.backends.cerebras import Cerebras
from sparseft.study.config import add_flags
from sparseft.study.section import parse_section
from sparseft.training.job import add_job_flags, check_outputs, job_flags_of, job_of, write_train_record


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_flags(parser)
    add_flags(parser, Cerebras, Cerebras.flags())
    parser.add_argument("--compile_only", action="store_true", help="compile on the appliance; train nothing")
    parser.add_argument(
        "--validate_only", action="store_true", help="lower the program without an appliance; train nothing"
    )
    return parser.parse_args()


def cerebras_of(args: argparse.Namespace) -> Cerebras:
    """Return the section `cerebras` of the flags. Raises InputError for a value that is out of range."""
    if args.compile_only and args.validate_only:
        raise InputError("--compile_only and --validate_only exclude each other", "give one of them")
    return parse_section(Cerebras, {name: getattr(args, name) for name in Cerebras.flags()}, "cerebras")


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    keep_freed_memory()
    check_outputs(job_flags_of(args))
    cerebras = cerebras_of(args)
    job = job_of(job_flags_of(args))
    # Here, because these imports refuse an environment without the package, and other bad input is reported first.
    from sparseft.backends.cerebras.states import remove_states
    from sparseft.backends.cerebras.training import lower, train

    program = args.output_dir / "compile.json"
    check_record(program, program.stem)
    hold(args.output_dir / "adapter")
    if args.compile_only or args.validate_only:
        record = lower(job, cerebras, args.output_dir, compile_only=args.compile_only)
        write_record(program, {"record": program.stem, **record})
    else:
        record = train(job, cerebras, args.output_dir)
        write_train_record(job_flags_of(args), job, record)
        remove_states(args.output_dir)
    return 0


if __name__ == "__main__":
    run_script(main)
