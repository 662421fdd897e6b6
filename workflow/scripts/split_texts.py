"""Divide texts into windows for the calibration, for the training, and for the judgement of `snakemake ship`.

The stage is in sparseft/stages/split_texts.py."""

from sparseft.common.command import run
from sparseft.stages import split_texts

if __name__ == "__main__":
    run(split_texts.run)
