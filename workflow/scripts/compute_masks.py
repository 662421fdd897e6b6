"""Compute the pruning masks of a method, all sparsities from one ranking.

    compute_masks.py --model_path models/smollm2 --output_dir masks/smollm2 --sparsity 0.5 0.7 --method unstructured

Writes masks_sparsity{XX}_{method}.pt a sparsity, report_{method}.json, and with --plot plots/sparsity_{method}.png.
"""

import argparse
from fractions import Fraction
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, run_script
from sparseft.files import write_json
from sparseft.grid import MASK_NAME
from sparseft.pruning.mask_generator import compute_masks
from sparseft.pruning.mask_ops import write_mask
from sparseft.pruning.report import mask_report, plot_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="Hugging Face checkpoint folder")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--sparsity", nargs="+", required=True, help="fractions, 0 <= s < 1, in whole percents")
    parser.add_argument(
        "--method", required=True, help="unstructured, structured or random; dense: the mask of all ones"
    )
    parser.add_argument("--importance", default="magnitude", help="the score; random has none")
    parser.add_argument("--scope", choices=["layer"], default="layer", help="what is ranked together")
    parser.add_argument("--seed", type=int, default=0, help="of the method random")
    parser.add_argument("--format", choices=["pt", "safetensors"], default="pt")
    parser.add_argument("--plot", action="store_true", help="also draw the per-layer sparsity histograms")
    return parser.parse_args()


def percent(text: str) -> int:
    """ "0.5" -> 50, exactly."""
    try:
        value = Fraction(text) * 100
    except ValueError:
        value = Fraction(-1)
    if value.denominator != 1 or not 0 <= value < 100:
        raise InputError(f"--sparsity {text}: not a sparsity", "give fractions from 0 up to 0.99 in whole percents")
    return int(value)


def main() -> int:
    args = parse_args()
    sparsities = sorted({percent(text) for text in args.sparsity})
    method = args.method if args.importance == "magnitude" else f"{args.method}_{args.importance}"
    masks = compute_masks(Checkpoint(args.model_path), method, sparsities, seed=args.seed)
    for sparsity, mask in masks.items():
        name = MASK_NAME.format(sparsity=f"{sparsity:02d}", method=method)
        write_mask(args.output_dir / f"{name}.{args.format}", mask)
    report = mask_report(masks)
    if args.plot:
        plot_report(report, args.output_dir / "plots" / f"sparsity_{method}.png")
    write_json(args.output_dir / f"report_{method}.json", report)
    return 0


if __name__ == "__main__":
    run_script(main)
