"""Masks that calibrate on a text, through the workflow: one place for all tasks, and jobs of their own."""

import json

import pytest
from project import TINY_STUDY, Study, tiny_grid
from sparseft.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
METHODS = ["unstructured_wanda", "unstructured_wanda_on_web", "structured_taylor_on_web"]
TASKS = ["hellaswag_mini", "gsm8k_mini"]
SMALL = {"examples": 3, "length": 12}
MASK = "masks/llama/masks_sparsity50_unstructured_wanda_on_web.pt"


def masks_section(**changes: object) -> dict:
    return {"calibration_examples": 4, "calibration": {"web": {"text": "web.jsonl", **SMALL, **changes}}}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a study whose first command was given only the methods without a text."""
    study = Study(tmp_path_factory.mktemp("text_masks"))
    documents = [f"Page {number} has {number * 17} words." for number in range(40)]
    (study.folder / "web.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    grid = {**tiny_grid("llama", "", METHODS[:1]), "tasks": TASKS, "sparsities": [0, 50], "modes": ["sparse_to_sparse"]}
    study.configure(tiny_models, grid=grid, **TINY_STUDY, masks={"calibration_examples": 4})
    assert study.planned("masks") == {
        "prepare_model": 1, "prepare_task": 2, "compute_dense_mask": 1, "compute_task_masks": 2, "masks": 1
    }  # fmt: skip
    study.snakemake("masks")
    study.configure(tiny_models, grid={**grid, "methods": METHODS}, **TINY_STUDY, masks=masks_section())
    return study


def test_a_method_on_a_text_plans_its_own_jobs_once_for_all_tasks(study):
    before = {path: path.stat().st_mtime_ns for path in study.folder.glob("masks/**/*.pt")}
    assert study.planned("masks") == {"prepare_calibration": 1, "compute_text_masks": 2, "masks": 1}
    study.snakemake("masks")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert study.planned("masks") == {}
    meta = read_mask(study.folder / MASK).meta
    prepared = study.folder / "data/calibration_web.jsonl"
    assert (meta["text_sha256"], meta["calibration"]) == (sha256(prepared), "web")
    assert meta["text_source"] == {"local": sha256(study.folder / "web.jsonl")}
    assert (meta["calibration_examples"], meta["calibration_length"], meta["calibration_seed"]) == (3, 12, 0)


def test_what_is_read_from_a_text_matters_to_its_masks_only(study):
    text = (study.folder / "study.yaml").read_text()
    study.snakemake("masks")
    changes = {
        "examples: 3": ("examples: 2", {"compute_text_masks": 2, "masks": 1}),
        "calibration_examples: 4": ("calibration_examples: 5", {"compute_task_masks": 2, "masks": 1}),
        "- 50": ("- 50\n  - 70", {"compute_added_task_mask": 2, "compute_added_text_mask": 2, "masks": 1}),
    }
    for old, (new, jobs) in changes.items():
        place = f"      {old}" if old == "examples: 3" else old
        assert text.count(place) == 1
        (study.folder / "study.yaml").write_text(text.replace(place, place.replace(old, new)))
        assert study.planned("masks") == jobs
    (study.folder / "study.yaml").write_text(text)


def test_a_run_of_any_task_is_proved_with_the_mask_on_the_text(study):
    run = "results/runs/llama-gsm8k_mini-unstructured_wanda_on_web-sparsity50-no_finetune-seed0"
    study.snakemake(f"{run}/validation_report.json")
    report = study.json(f"{run}/validation_report.json")
    assert (report["passed"], report["inputs"]["mask"]) == (True, sha256(study.folder / MASK))
    assert (report["mask"]["calibration"], report["mask"]["calibration_length"]) == ("web", 12)


def test_the_evaluation_looks_for_its_examples_in_the_text(study):
    run = "results/runs/llama-hellaswag_mini-{}-sparsity50-no_finetune-seed0/evaluation.json"
    names = [run.format(method) for method in ("unstructured_wanda_on_web", "unstructured_wanda")]
    study.snakemake(*names)
    on_text, on_task = map(study.json, names)
    assert on_text["inputs"]["calibration"] == [sha256(study.folder / "data/calibration_web.jsonl")]
    assert on_text["overlap"] == on_task["overlap"] == 0
    assert on_task["inputs"]["calibration"] is None


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (MASK.replace("_web", "_pile"), "unstructured_wanda_on_pile calibrates on pile, which masks.calibration does not describe; describe it there, or choose one of web"),
        (MASK.replace("wanda_on", "on"), "method 'unstructured_on_web': unstructured looks at no examples"),
        (MASK.replace("llama/", "llama/hellaswag_mini/"), f"the masks of unstructured_wanda_on_web are in another place; write {MASK}"),
    ],
)  # fmt: skip
def test_a_target_that_no_rule_makes_is_refused_in_one_line(study, target, fault):
    line = study.snakemake(target, "-n", expect=2)
    assert fault in line, line
    assert "Traceback" not in line


def test_a_window_longer_than_the_context_is_refused_before_any_job(study):
    text = (study.folder / "study.yaml").read_text()
    (study.folder / "study.yaml").write_text(text.replace("length: 12", "length: 513"))
    line = study.snakemake("-n", expect=2)
    (study.folder / "study.yaml").write_text(text)
    assert (
        "error: masks.calibration.web.length: windows of 513 tokens, but llama takes 512; set it to at most 512" in line
    )
