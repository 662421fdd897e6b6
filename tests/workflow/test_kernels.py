"""Every script that runs a model computes with the same kernels, each in a process of its own."""

import json
from pathlib import Path

import forks
import pytest
import torch
from box import RUNS, flags
from project import words_of
from torch.nn import functional as F

SCRIPTS = ("evaluate.py", "train.py", "reconstruct.py", "compute_masks.py --pruned_dir")


def note_kernels(place: str, name: str, *words: str) -> None:
    attention = F.scaled_dot_product_attention

    def noting(*inputs: object, **options: object) -> torch.Tensor:
        matmul = torch.backends.cuda.matmul
        settings = {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "filled": torch.utils.deterministic.fill_uninitialized_memory,
            "precision": torch.get_float32_matmul_precision(),
            "reduced": [matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction],
        }
        Path(place).write_text(json.dumps(settings))
        return attention(*inputs, **options)

    F.scaled_dot_product_attention = noting
    forks.script(name, *words)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_model_runs_with_repeatable_kernels_and_exact_sums(finished_runs, tmp_path, script):
    words = words_of(flags(finished_runs, RUNS[0], script, tmp_path / "out"))
    code, output = forks.call(note_kernels, str(tmp_path / "noted"), script.split()[0], *words)
    assert code == 0, output
    assert json.loads((tmp_path / "noted").read_text()) == {
        "deterministic": True,
        "filled": False,
        "precision": "highest",
        "reduced": [False, False],
    }
