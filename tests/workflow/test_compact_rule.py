"""The optional rule: a structured run's smaller model, for who asks for it."""

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint

RUN = "results/runs/llama-hellaswag_mini-{method}-sparsity50-no_finetune-seed0"


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    study = Study(tmp_path / "study")
    study.configure(tiny_models, grid=tiny_grid("llama", "hellaswag_mini"), **TINY_STUDY)
    return study


@pytest.mark.slow
def test_the_smaller_model_of_a_structured_run_is_made_when_it_is_the_target(study):
    assert "compact_run" not in study.planned()
    target = f"{RUN.format(method='structured')}/compact"
    assert study.planned(target) == {"prepare_model": 1, "compute_masks": 1, "merge_adapter": 1, "compact_run": 1}
    study.snakemake(target)
    report = study.json(f"{target}/compact.json")
    assert (report["method"], report["sparsity"]) == ("structured", 0.5)
    assert Checkpoint(study.folder / target).config["intermediate_size"] == 24
    assert report["outputs"] == Checkpoint(study.folder / target).hashes()


def test_an_unstructured_run_has_no_smaller_model(study):
    target = f"{RUN.format(method='unstructured')}/compact"
    assert f"error: {target}: " in study.snakemake(target, "-n", expect=2)
