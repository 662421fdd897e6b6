"""Evaluate a model on the examples of a task, with lm-eval or by the loss.

The stage is in sparseft/stages/evaluate.py."""

from sparseft.common.command import run
from sparseft.stages import evaluate

if __name__ == "__main__":
    run(evaluate.run)
