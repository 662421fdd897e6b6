"""Write the complete configuration of a study to a file.

The stage is in sparseft/stages/write_configuration.py."""

from sparseft.common.command import run
from sparseft.stages import write_configuration

if __name__ == "__main__":
    run(write_configuration.run)
