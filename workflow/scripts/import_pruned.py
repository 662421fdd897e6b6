"""Import a checkpoint that another tool pruned: infer its mask by a comparison with the model that the tool was given.

The stage is in sparseft/stages/import_pruned.py."""

from sparseft.common.command import run
from sparseft.stages import import_pruned

if __name__ == "__main__":
    run(import_pruned.run)
