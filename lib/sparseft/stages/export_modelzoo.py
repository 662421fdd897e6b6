"""Write a model, and its mask, as a Cerebras ModelZoo checkpoint and configuration. ModelZoo is not needed.

    export_modelzoo.py --model_path models/llama --mask_path masks/llama/masks_sparsity50_unstructured.pt \
        --output_dir cs3/llama

Writes model_to_cs-2.5.mdl (W * M and the masks, under the names that the Trainer uses), config_to_cs-2.5.yaml,
config.json, the tokenizer, and export.json with the hashes of inputs and outputs.
"""

from pathlib import Path

from sparseft.common.command import Folder
from sparseft.storage.outputs import claim
from sparseft.study.planning.needs import of_one_model

# Raise it when the results change.
VERSION = 1
needs = of_one_model


def run(*, model_path: Folder, output_dir: Path, mask_path: Path | None = None) -> None:
    """Check the output's place, and write the checkpoint.

    Args:
        model_path: Hugging Face checkpoint folder
        output_dir: folder for the ModelZoo checkpoint
        mask_path: a mask of this model; without it the model is written dense
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.training.trainers.modelzoo.export import KNOWN_BY, RECORD, export_modelzoo

    claim(output_dir, output_dir / RECORD, KNOWN_BY, [model_path, mask_path])
    export_modelzoo(Checkpoint(model_path), mask_path, output_dir)
