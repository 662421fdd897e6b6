"""Turn the source of a model into a plain Hugging Face checkpoint, with a manifest of its hashes.

The stage is in sparseft/stages/prepare_model.py."""

from sparseft.common.command import run
from sparseft.stages import prepare_model

if __name__ == "__main__":
    run(prepare_model.run)
