"""Write a model, and its mask, as a Cerebras ModelZoo checkpoint and configuration. ModelZoo is not needed.

    export_modelzoo.py --model_path models/llama --mask_path masks/llama/masks_sparsity50_unstructured.pt --output_dir cs3/llama

Writes model_to_cs-2.5.mdl (W * M and the masks, under the names that the Trainer uses), config_to_cs-2.5.yaml, config.json, the
tokenizer, and export.json with the hashes of inputs and outputs.
"""

import argparse
from pathlib import Path

from sparseft.backends.modelzoo.export import export_modelzoo
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import run_script
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart, check_replaceable


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, required=True, help="Hugging Face checkpoint folder")
    parser.add_argument("--mask_path", type=Path, help="a mask of this model; without it the model is written dense")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the ModelZoo checkpoint")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    check_apart([args.output_dir], [args.model_path, args.mask_path])
    check_replaceable(args.output_dir, "ModelZoo checkpoint")
    hold(args.output_dir)
    export_modelzoo(Checkpoint(args.model_path), args.mask_path, args.output_dir)
    return 0


if __name__ == "__main__":
    run_script(main)
