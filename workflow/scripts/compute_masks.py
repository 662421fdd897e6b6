"""Compute the pruning masks of methods, all sparsities of one in one pass.

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 0.7 --method unstructured

Writes, a method, masks_sparsity{XX}_{method}.pt a sparsity, report_{method}.json, and with --plot plots/*_{method}.png.
gradient, taylor and wanda look at a task's training examples: --task and --data_dir.
"""

import argparse
import os
import re
from fractions import Fraction
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, open_checkpoint
from sparseft.errors import InputError, run_script
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.report import plot_report
from sparseft.pruning.scores import Calibration
from sparseft.storage.files import check_apart, check_ours, check_writable, hold, staged, write_json
from sparseft.study.config import Masks, add_flags, parse_section
from sparseft.study.grid import IMPORTANCES, MASK_NAME, MASK_REPORT, TASK_METHODS, TASKS, split_method

MAX_THREADS = max(64, os.cpu_count() or 1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model_path", type=Path, required=True, help="Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the masks, the report and the plots")
    parser.add_argument("--sparsity", nargs="+", required=True, help="fractions from 0 to below 1, in whole percents")
    parser.add_argument("--method", nargs="+", required=True, metavar="METHOD",
                        help="a pattern, or a pattern with an importance, as in unstructured_wanda; dense gives a mask"
                        " that keeps every weight")  # fmt: skip
    parser.add_argument(
        "--importance", choices=IMPORTANCES, default="magnitude", help="importance of the methods that name none"
    )
    parser.add_argument("--task", choices=TASKS, help="task whose examples gradient, taylor and wanda use")
    parser.add_argument("--data_dir", type=Path, help="folder with the task's train.jsonl")
    parser.add_argument("--format", choices=["pt", "safetensors"], default="pt", help="kind of the mask files")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="CPU threads; another number can change the masks of gradient, taylor and wanda, and no others",
    )
    parser.add_argument("--plot", action="store_true", help="also draw sparsities and scores by layer")
    parser.add_argument(
        "--suffix",
        default="",
        help="added to the names of the report and the plots, so that those of another pass stay",
    )
    add_flags(parser, Masks, Masks.model_fields)
    return parser.parse_args()


def percent(text: str) -> int:
    """ "0.5" -> 50, exactly."""
    try:
        value = Fraction(text) * 100
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if value.denominator != 1 or not 0 <= value < 100:
        raise InputError(f"--sparsity {text}: not a sparsity", "give fractions from 0 up to 0.99 in whole percents")
    return int(value)


def methods_of(args: argparse.Namespace, settings: Masks, percents: list[int]) -> list[str]:
    """Return the methods, each with its importance in its name. All are checked before anything is computed."""
    suffix = "" if args.importance == "magnitude" else f"_{args.importance}"
    methods = [method if "_" in method else f"{method}{suffix}" for method in args.method]
    twice = [method for method in methods if methods.count(method) > 1]
    if twice:
        raise InputError(f"--method {twice[0]}: named twice", "name every method once")
    for method in methods:
        settings.scope_of(method, percents)
        if args.scope and method.startswith(("structured", "semistructured")):
            raise InputError(f"{method} ranks channels or groups", "leave --scope out")
        if method in TASK_METHODS and not (args.task and args.data_dir):
            raise InputError(f"{method} looks at a task's examples", "give --task and --data_dir")
    return methods


def calibration_of(args: argparse.Namespace, method: str, settings: Masks) -> Calibration:
    """What the task's examples say; torch is needed here and nowhere else."""
    from sparseft.language_model.hardware import limit_threads
    from sparseft.pruning.calibration import calibrate

    limit_threads(args.threads)
    importance = split_method(method)[1]
    return calibrate(importance, args.task, args.data_dir / "train.jsonl", settings)


def files_of(args: argparse.Namespace, method: str, percents: list[int]) -> tuple[list[Path], Path]:
    """Return the places of a method's masks, and of its report."""
    names = [MASK_NAME.format(sparsity=f"{percent:02d}", method=method) for percent in percents]
    report = args.output_dir / MASK_REPORT.format(name=f"{method}{args.suffix}")
    return [args.output_dir / f"{name}.{args.format}" for name in names], report


def check_outputs(args: argparse.Namespace, checkpoint: Checkpoint, places: list[Path]) -> None:
    """Raise InputError if an output would leave its folder, or replace an input or what this program did not write."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", args.suffix):
        raise InputError(
            f"--suffix {args.suffix!r}: not the end of a file's name", "use letters, digits, '_', '.' and '-'"
        )
    check_apart([args.output_dir], [checkpoint.folder, *checkpoint.files, args.data_dir])
    check_ours(args.output_dir, *places)
    check_writable(*places)


def main() -> int:
    args = parse_args()
    if not 1 <= args.threads <= MAX_THREADS:
        raise InputError(f"--threads {args.threads}: not a number of threads", f"give 1 to {MAX_THREADS}")
    percents = sorted({percent(text) for text in args.sparsity})
    settings = parse_section(Masks, {name: getattr(args, name) for name in Masks.model_fields}, "masks")
    checkpoint, methods = open_checkpoint(args.model_path), methods_of(args, settings, percents)
    if isinstance(checkpoint, ModelZooCheckpoint) and set(methods) & set(TASK_METHODS):
        raise InputError(f"{args.model_path}: to run the model, it must be a Hugging Face checkpoint",
                         f"prepare_model.py --source mdl:{args.model_path}, then give that folder")  # fmt: skip
    outputs = {method: files_of(args, method, percents) for method in methods}
    check_outputs(args, checkpoint, [place for paths, report in outputs.values() for place in (*paths, report)])
    for method, (paths, report_path) in outputs.items():
        hold(report_path)
        calibration = calibration_of(args, method, settings) if method in TASK_METHODS else None
        with compute_masks(checkpoint, method, percents, paths, settings, calibration=calibration,
                           threads=args.threads) as report, staged(args.output_dir) as folder:  # fmt: skip
            if args.plot:
                plot_report(report, folder, f"{method}{args.suffix}")
            write_json(folder / report_path.name, report)
    return 0


if __name__ == "__main__":
    run_script(main)
