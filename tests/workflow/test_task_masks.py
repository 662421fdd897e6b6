"""Masks whose importance looks at a task's examples, through the workflow: their place, their inputs, their use."""

import numpy as np
import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.masks.mask_file import read_mask

pytestmark = pytest.mark.slow
METHODS = ["semistructured", "structured_gradient", "unstructured_taylor", "semistructured_wanda"]
RUN = "results/runs/llama-hellaswag_mini-unstructured_taylor-sparsity50-no_finetune-seed0"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    study = Study(tmp_path_factory.mktemp("task_masks"))
    grid = {**tiny_grid("llama", "hellaswag_mini", METHODS), "sparsities": [0, 50]}
    study.configure(tiny_models, grid=grid, masks={"calibration_examples": 4}, **TINY_STUDY)
    study.snakemake("masks")
    return study


def test_every_method_prunes_half_and_says_how(study):
    for method in METHODS:
        folder = "masks/llama/hellaswag_mini" if "_" in method else "masks/llama"
        mask = read_mask(study.folder / folder / f"masks_sparsity50_{method}.pt")
        assert mask.meta["reached"] == 0.5
        assert mask.meta.get("task") == ("hellaswag_mini" if "_" in method else None)
        assert mask.meta.get("calibration_examples") == (4 if "_" in method else None)
        report = study.json(f"{folder}/report_{method}.json")
        assert [row["asked_percent"] for row in report["sparsities"]] == [0, 50]
        if method.startswith("semistructured"):
            assert all((mask.kept(layer).reshape(-1, 4).sum(axis=1) == 2).all() for layer in mask.shape)


def test_the_examples_and_their_number_matter_to_these_masks_alone(study):
    text = (study.folder / "study.yaml").read_text()
    changes = {
        "calibration_examples: 5": 3,
        "calibration_examples: 4\n  sequential: false": 1,
        "calibration_examples: 4": 0,
    }
    for change, jobs in changes.items():
        (study.folder / "study.yaml").write_text(text.replace("calibration_examples: 4", change))
        assert study.planned("masks") == ({"compute_task_masks": jobs, "masks": 1} if jobs else {})


def test_a_run_on_such_a_mask_is_proved_with_it(study):
    study.snakemake(f"{RUN}/validation_report.json")
    report = study.json(f"{RUN}/validation_report.json")
    assert (report["passed"], report["mask"]["importance"], report["actual_sparsity"]) == (True, "taylor", 0.5)


def test_the_scores_of_two_importances_choose_differently(study):
    folder = study.folder / "masks/llama"
    masks = [read_mask(folder / f"{name}.pt") for name in ("masks_sparsity50_semistructured",
                                                           "hellaswag_mini/masks_sparsity50_semistructured_wanda")]  # fmt: skip
    differing = sum(int((masks[0].kept(layer) != masks[1].kept(layer)).sum()) for layer in masks[0].shape)
    assert 0 < differing / sum(np.prod(shape) for shape in masks[0].shape.values()) < 0.5


def test_a_method_that_the_grid_cannot_have_deletes_no_mask(study):
    text = (study.folder / "study.yaml").read_text()
    target = "masks/llama/masks_sparsity50_semistructured.pt"
    before = (study.folder / target).read_bytes()
    changed = (
        text.replace("- 50", "- 50\n  - 30")
        .replace("  - semistructured\n", "")
        .replace("  - semistructured_wanda\n", "")
    )
    try:
        (study.folder / "study.yaml").write_text(changed)
        line = study.snakemake(target, expect=2)
    finally:
        (study.folder / "study.yaml").write_text(text)
    assert "error: semistructured: 30 %" in line
    assert "Traceback" not in line
    assert (study.folder / target).read_bytes() == before
