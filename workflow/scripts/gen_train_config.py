"""Write the configuration of ModelZoo's Trainer for one run, and the run's batches, from the configuration of a study.

The stage is in sparseft/stages/gen_train_config.py."""

from sparseft.common.command import run
from sparseft.stages import gen_train_config

if __name__ == "__main__":
    run(gen_train_config.run)
