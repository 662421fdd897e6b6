"""Write a model, and its mask, as a Cerebras ModelZoo checkpoint and configuration. ModelZoo is not needed.

The stage is in sparseft/stages/export_modelzoo.py."""

from sparseft.common.command import run
from sparseft.stages import export_modelzoo

if __name__ == "__main__":
    run(export_modelzoo.run)
