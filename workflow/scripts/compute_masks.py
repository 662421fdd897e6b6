"""Compute the pruning masks of one or several methods, all sparsities of a method in one pass.

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 0.7 --method unstructured

Writes for each method masks_sparsity{XX}_{method}.pt per sparsity, report_{method}.json, and with --plot plots/*_{method}.png.
A method that looks at a task's training examples needs --task and --data_dir. A method that ends in _on_NAME looks at a text:

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 --method unstructured_wanda_on_c4 \\
        --text c4.jsonl

A method that updates weights also writes its pruned weights, each sparsity as a checkpoint of its own:

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2/boolq --sparsity 0.5 \\
        --method unstructured_sparsegpt --task boolq --data_dir data/boolq --pruned_dir pruned/smollm2/boolq
"""

import argparse
import os
import re
from dataclasses import replace
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.modelzoo_checkpoint import ModelZooCheckpoint, open_checkpoint
from sparseft.errors import InputError, run_script
from sparseft.importances import DEFAULT, IMPORTANCES
from sparseft.methods import ON, get_method
from sparseft.pruning.mask_generator import Calibration, PassFiles, compute_masks
from sparseft.pruning.pruned_base import PrunedFiles, pruned_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours
from sparseft.study.config import Masks, add_flags
from sparseft.study.flags import whole_percent
from sparseft.study.grid import MASK_NAME, MASK_REPORT
from sparseft.study.section import parse_section
from sparseft.study.sources import CalibrationText

# `calibration` has the flags --text and --calibration_length, because one call reads one text. `imported` has a script of its
# own, import_pruned.py.
MASK_FLAGS = tuple(name for name in Masks.model_fields if name not in ("calibration", "imported"))
MAX_THREADS = max(64, os.cpu_count() or 1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model_path", type=Path, required=True, help="Hugging Face checkpoint folder, or FILE.mdl[@FOLDER]"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the masks and their report")
    parser.add_argument("--sparsity", nargs="+", required=True, help="fractions from 0 to below 1, in whole percents")
    parser.add_argument(
        "--method",
        nargs="+",
        required=True,
        metavar="METHOD",
        help="a pattern, or a pattern with an importance or an allocation, as in unstructured_wanda_owl; dense gives a mask"
        " that keeps every weight",
    )
    parser.add_argument(
        "--importance",
        choices=[importance.name for importance in IMPORTANCES],
        default=DEFAULT.name,
        help="importance of the methods that name none",
    )
    parser.add_argument("--task", help="task of the examples that some methods look at")
    parser.add_argument("--data_dir", type=Path, help="folder of the task's train.jsonl")
    parser.add_argument(
        "--text",
        type=Path,
        help="text of the methods that end in _on_NAME, a .jsonl or .txt file; the flags --calibration_* choose its windows",
    )
    length = CalibrationText.model_fields["length"]
    parser.add_argument(
        "--calibration_length", default=length.default, help=f"tokens per window of --text ({length.default})"
    )
    parser.add_argument(
        "--pruned_dir",
        type=Path,
        help="folder of the pruned weights, for methods that update weights; one folder in it per sparsity",
    )
    parser.add_argument("--format", choices=["pt", "safetensors"], default="pt", help="format of the mask files")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="threads; any number gives the same masks, unless the scores come from examples",
    )
    parser.add_argument("--plot", action="store_true", help="also draw sparsities and scores by layer")
    parser.add_argument("--suffix", default="", help="suffix of the names of report and plots, to tell passes apart")
    add_flags(parser, Masks, MASK_FLAGS)
    return parser.parse_args()


def methods_of(args: argparse.Namespace, settings: Masks, percents: list[int]) -> list[str]:
    """Return the methods, each with its importance in its name. All are checked before anything is computed."""
    importance = next(importance for importance in IMPORTANCES if importance.name == args.importance)
    methods = [get_method(name) for name in args.method]
    names = [
        replace(method, importance=importance).name if method.importance is DEFAULT else method.name
        for method in methods
    ]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--method {twice[0]}: named twice", "name every method once")
    for name in names:
        settings.scope_of(name, percents)
        method = get_method(name)
        if method.imported:
            raise InputError(f"--method {name}: its masks are those of another tool", "use import_pruned.py")
        if args.scope and settings.scope_of(name, percents) != args.scope:
            raise InputError(f"--scope {args.scope}: {name} ranks channels, groups or blocks", "leave --scope out")
        if method.updates_weights and not (args.pruned_dir and args.format == "pt"):
            raise InputError(f"{name} updates weights", "give --pruned_dir for them, and leave --format out")
        if method.uses_task and not (args.task and args.data_dir):
            raise InputError(
                f"{name} looks at a task's examples", f"give --task and --data_dir, or {name}{ON}NAME and --text"
            )
    return names


def settings_of(args: argparse.Namespace) -> Masks:
    """Return the settings of the masks. They describe the text under the name that the methods have for it."""
    values = {name: getattr(args, name) for name in MASK_FLAGS}
    texts = sorted({get_method(name).calibration for name in args.method} - {None})
    if len(texts) > 1:
        raise InputError(
            f"--method: the methods look at the texts {' and '.join(texts)}", "compute one text's masks per call"
        )
    if args.text and not texts:
        raise InputError(f"--text {args.text}: no method looks at a text", f"name a method that ends in {ON}NAME")
    if texts and not args.text:
        raise InputError(f"a method looks at the text {texts[0]}", "give its file with --text")
    if texts:
        text = {"text": str(args.text), "length": args.calibration_length}
        text |= {name: getattr(args, f"calibration_{name}") for name in ("examples", "seed")}
        values["calibration"] = {texts[0]: text}
    return parse_section(Masks, values, "masks")


def calibration_of(args: argparse.Namespace, method: str, settings: Masks) -> Calibration | None:
    """Return the calibration of a method; None if it looks at no examples."""
    if not get_method(method).uses_examples:
        return None
    # Only a calibration needs torch.
    from sparseft.language_model.hardware import limit_threads
    from sparseft.pruning.calibration import calibrate, calibrate_on_text

    limit_threads(args.threads)
    if get_method(method).calibration:
        return calibrate_on_text(get_method(method), args.text, settings.text_of(method))
    return calibrate(get_method(method), args.task, args.data_dir / "train.jsonl", settings)


def places_of(args: argparse.Namespace, method: str, percents: list[int]) -> PassFiles:
    """Return the places of a method's files."""
    names = [MASK_NAME.format(sparsity=f"{percent:02d}", method=method) for percent in percents]
    masks = [args.output_dir / f"{name}.{args.format}" for name in names]
    pass_name = f"{method}{args.suffix}"
    report = args.output_dir / MASK_REPORT.format(name=pass_name)
    return PassFiles(masks, report, plot_name=pass_name if args.plot else None)


def pruned_places_of(args: argparse.Namespace, method: str, percents: list[int]) -> dict[int, PrunedFiles]:
    """Return the places of the files of a method that updates weights, by sparsity."""
    folders = args.output_dir, args.pruned_dir
    return {percent: pruned_files(*folders, method, percent, args.suffix, args.plot) for percent in percents}


def check_outputs(args: argparse.Namespace, checkpoint: Checkpoint, files: list[Path]) -> None:
    """Raise InputError if an output would leave its folder, or replace an input or what this program did not write.

    `files` are the masks and the reports."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", args.suffix):
        raise InputError(
            f"--suffix {args.suffix!r}: not the end of a file's name", "use letters, digits, '_', '.' and '-'"
        )
    folders = [args.output_dir, *([args.pruned_dir] if args.pruned_dir else [])]
    check_apart(folders, [checkpoint.folder, *checkpoint.files, args.data_dir, args.text])
    check_ours(args.output_dir, "masks", *files)


def update_weights(
    checkpoint: Checkpoint, method: str, places: dict[int, PrunedFiles], settings: Masks, calibration: Calibration
) -> None:
    """Prune and update the weights, each sparsity in a pass of its own over the model."""
    from sparseft.pruning.weight_updates import prune_weights

    for percent, files in places.items():
        hold(files.base)
        prune_weights(checkpoint, method, percent, files, settings, calibration)


def main() -> int:
    args = parse_args()
    if not 1 <= args.threads <= MAX_THREADS:
        raise InputError(f"--threads {args.threads}: not a number of threads", f"give 1 to {MAX_THREADS}")
    percents = sorted({whole_percent(text) for text in args.sparsity})
    settings = settings_of(args)
    checkpoint = open_checkpoint(args.model_path)
    methods = methods_of(args, settings, percents)
    if isinstance(checkpoint, ModelZooCheckpoint) and any(get_method(name).uses_examples for name in methods):
        raise InputError(
            f"{args.model_path}: to run the model, it must be a Hugging Face checkpoint",
            f"prepare_model.py --source mdl:{args.model_path}, then give that folder",
        )
    updating = [name for name in methods if get_method(name).updates_weights]
    pruned = {name: pruned_places_of(args, name, percents) for name in updating}
    passes = {name: places_of(args, name, percents) for name in methods if name not in updating}
    files = [file for places in passes.values() for file in (*places.masks, places.report)]
    of_one_sparsity = [places for by_percent in pruned.values() for places in by_percent.values()]
    files += [file for places in of_one_sparsity for file in (places.mask, places.report)]
    check_outputs(args, checkpoint, files)
    for method, places in passes.items():
        hold(places.report)
        calibration = calibration_of(args, method, settings)
        compute_masks(checkpoint, method, percents, places, settings, calibration=calibration, threads=args.threads)
    for method, places in pruned.items():
        update_weights(checkpoint, method, places, settings, calibration_of(args, method, settings))
    return 0


if __name__ == "__main__":
    run_script(main)
