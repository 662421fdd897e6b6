"""Train the adapter of one run on the pruned weights.

    train.py --run_id smollm2-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0 --model_path models/smollm2 \\
        --mask_path masks/smollm2/masks_sparsity50_unstructured.pt --data_dir data/boolq_mini --output_dir RUN_FOLDER

Writes adapter/ (as PEFT does) and train.json: loss curve, evaluation loss, speed, memory, hashes.
"""

import argparse
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.checkpoints.layers import prunable_shapes
from sparseft.config import Training, parse_section
from sparseft.errors import InputError, run_script
from sparseft.files import sha256, write_json
from sparseft.grid import NO_FINETUNE, TRAINED_MODES, Run
from sparseft.lora.adapter import adapter_digest
from sparseft.pruning.mask_ops import check_mask, check_run, read_mask
from sparseft.tasks import get_task, read_examples
from sparseft.tasks.source import SPLITS
from sparseft.training.hardware import limit_threads
from sparseft.training.torch_backend import train


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_id", required=True, help="names the task, the mode and the seed")
    parser.add_argument("--model_path", type=Path, required=True)
    parser.add_argument("--mask_path", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True, help="train.jsonl and validation.jsonl")
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number, other last bits")
    for name, field in Training.model_fields.items():
        parser.add_argument(f"--{name}", type=float if field.annotation is float else int, default=field.default,
                            help=f"{field.description} ({field.default})".replace("%", "%%"))  # fmt: skip
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    limit_threads(args.threads)
    run = Run.parse(args.run_id)
    if run.mode == NO_FINETUNE:
        raise InputError(f"{run.id} is not trained", f"choose one of {', '.join(TRAINED_MODES)}")
    task = get_task(run.task)
    rows = {split: read_examples(args.data_dir / f"{split}.jsonl", task) for split in SPLITS}
    settings = parse_section(Training, {name: getattr(args, name) for name in Training.model_fields}, "training")
    checkpoint, mask = Checkpoint(args.model_path), read_mask(args.mask_path)
    check_run(mask, args.mask_path, run.method, run.sparsity)
    check_mask(mask, args.mask_path, prunable_shapes(checkpoint), checkpoint.digest)
    inputs = {"model": checkpoint.digest, "mask": sha256(args.mask_path)}
    inputs |= {split: sha256(args.data_dir / f"{split}.jsonl") for split in SPLITS}
    provenance = {"run_id": run.id, "mode": run.mode, "mask_sha256": inputs["mask"], "base": inputs["model"]}
    adapter = args.output_dir / "adapter"
    record = train(checkpoint, mask, task, rows, settings, mode=run.mode, seed=run.seed, adapter=adapter,
                   provenance=provenance)  # fmt: skip
    outputs = {"adapter": adapter_digest(adapter)}
    write_json(args.output_dir / "train.json",
               {"run_id": run.id, **settings.model_dump(), **record, "inputs": inputs, "outputs": outputs})  # fmt: skip
    return 0


if __name__ == "__main__":
    run_script(main)
