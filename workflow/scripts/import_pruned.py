"""Import a checkpoint that another tool pruned: infer its mask by a comparison with the model that the tool was given.

    import_pruned.py --model_path models/llama --source path:/data/llama-wanda-50 --name wanda --sparsity 0.5 \\
        --output_dir masks/llama --pruned_dir pruned/llama

Writes masks_sparsity{XX}_imported_{NAME}.pt, its report and its plots to --output_dir. The pruned weights become a checkpoint
of their own, sparsity{XX}_imported_{NAME} in --pruned_dir.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import run_script
from sparseft.methods import IMPORTED, get_method
from sparseft.pruning.imported import import_pruned
from sparseft.pruning.pruned_base import PrunedFiles, pruned_files
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_ours, check_replaceable
from sparseft.study.config import Masks
from sparseft.study.flags import whole_percent
from sparseft.study.section import parse_section


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="folder of the model that the tool was given")
    parser.add_argument(
        "--source", required=True, help="the pruned checkpoint, as safetensors: path:DIR or hub:ORG/NAME[@REVISION]"
    )
    parser.add_argument("--name", required=True, help="the method is called imported_NAME: letters a to z and digits")
    parser.add_argument(
        "--sparsity", required=True, help="fraction of the weights that the tool pruned, in whole percents"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the mask and its report")
    parser.add_argument(
        "--pruned_dir", type=Path, required=True, help="folder in which the pruned weights get a folder"
    )
    return parser.parse_args()


def check_outputs(args: argparse.Namespace, source: str, places: PrunedFiles) -> None:
    """Raise InputError if an output would replace an input, another output, or what this program did not write."""
    kind, _, place = source.partition(":")
    check_apart([args.output_dir, args.pruned_dir], [args.model_path, Path(place) if kind == "path" else None])
    check_ours(args.output_dir, "masks", places.mask, places.report)
    check_replaceable(places.base, "pruned model")


def main() -> int:
    """Check the inputs, import the checkpoint, and print the counts to stderr."""
    args = parse_args()
    method = get_method(f"{IMPORTED.name}_{args.name}").name
    percent = whole_percent(args.sparsity)
    source = parse_section(Masks, {"imported": {args.name: {percent: args.source}}}, "masks").imported_source(
        method, percent
    )
    places = pruned_files(args.output_dir, args.pruned_dir, method, percent)
    check_outputs(args, source, places)
    hold(places.report)
    hold(places.base)
    counts = import_pruned(Checkpoint(args.model_path), source, method, percent, places)
    print(
        f"{places.mask}: {100 * counts['reached']:.2f} % pruned, {counts['natural_zeros']} natural zeros kept,"
        f" {counts['changed_weights']} kept weights changed",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run_script(main)
