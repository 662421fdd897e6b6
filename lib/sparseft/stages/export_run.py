"""Write a run as a folder that can be given away: a stock Hugging Face checkpoint with a model card and hashes.

    export_run.py --run_id RUN --checkpoint RUN_FOLDER/model_dir --model_path models/smollm2 \
        --mask_path masks/smollm2/masks_sparsity50_structured.pt --output_dir RUN_FOLDER/export

The merged model becomes smaller if whole channels and heads can be left out of it, as with a structured mask. Else it
stays as it is, and the card says why. The records of the run are read from the folder of the checkpoint. With --gguf
and --converter it also writes model.gguf. """

import sys
from pathlib import Path
from typing import Any

from sparseft.axes.grid import RUN_ID, Run
from sparseft.common.command import Flags, Folder
from sparseft.serving.manifest import ExportManifest
from sparseft.serving.settings import LLAMA_CPP, QUANTIZED, Export
from sparseft.stages.find_shares import effort  # noqa: F401
from sparseft.storage.outputs import claim
from sparseft.study.config import Config
from sparseft.study.planning.needs import of_one_model


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides an exported folder."""
    section = config.export
    # Only the quantiser of llama.cpp writes these formats.
    is_quantised = section.gguf in QUANTIZED
    engines = [place for place in section.engines if is_quantised and place.startswith(LLAMA_CPP)]
    names = section.model_dump(include={"gguf", "converter", "license"}) | {"engines": engines}
    return {"run_id": RUN_ID.format(**vars(wildcards)), **names}


# Raise it when the results change.
VERSION = 1
needs = of_one_model


def run(
    *,
    run_id: str,
    checkpoint: Path,
    model_path: Folder,
    mask_path: Path,
    output_dir: Folder,
    settings: Flags[Export] = Export(),
) -> None:
    """Write the folder, and say what was left out.

    Args:
        run_id: the run
        checkpoint: its merged model
        model_path: folder of the prepared dense model, whose source and licence the card states
        mask_path: the mask that the run was merged with
        output_dir: the exported folder
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.serving.export_run import export

    claim(output_dir, output_dir / "manifest.json", ExportManifest.known_by, [checkpoint, model_path, mask_path])
    reason = export(Run.parse(run_id), Checkpoint(checkpoint), mask_path, model_path, output_dir, settings)
    print(f"smaller: {f'no, {reason}' if reason else 'yes'}", file=sys.stderr)
