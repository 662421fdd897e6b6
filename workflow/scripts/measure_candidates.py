"""Measure the candidates of `snakemake ship` as they are served: size, speed, and what they say of held-out texts.

The stage is in sparseft/stages/measure_candidates.py."""

from sparseft.command import run
from sparseft.stages import measure_candidates

if __name__ == "__main__":
    run(measure_candidates.run)
