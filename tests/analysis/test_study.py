"""A study is two frames; a run that is missing, damaged, copied or contradicts others is a fault of that run only."""

import numpy as np
import pytest
from sparseft.analysis.study import read_study
from sparseft.storage.record import FILES_OF
from storage.sound_records import digest

DENSE = "m-t-dense-sparsity00-sparse_to_dense-seed0"
RUN = "m-t-unstructured-sparsity50-sparse_to_sparse-seed0"
OTHER = "m-t-random-sparsity50-sparse_to_sparse-seed0"


@pytest.fixture
def study(write_run, runs_dir):
    """Write three sound runs, and return their folder."""
    for run_id in (DENSE, RUN, OTHER):
        write_run(run_id)
    return runs_dir


def faults(folder) -> dict[str, list[tuple[str, str]]]:
    """Return the faults by run, without the files that no run of these tests has on the disk."""
    table = read_study(folder).faults
    rows = table[~table["text"].str.contains("is not there|files are not there")]
    return {run_id: list(zip(own["kind"], own["text"], strict=True)) for run_id, own in rows.groupby("run_id")}


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: text.replace("0.5", "0.6", 1)])
def test_a_run_without_a_sound_result_is_missing(study, damage):
    path = study / RUN / "evaluation.json"
    path.write_text(damage(path.read_text()))
    ((kind, text),) = faults(study)[RUN]
    assert kind == "missing"
    assert text.startswith("evaluation.json")
    assert RUN not in set(read_study(study).runs["run_id"])


@pytest.mark.parametrize(("name", "column"), [("train", "train_loss"), ("before_merge", "train_merge_gap")])
def test_a_run_without_another_record_has_blanks(study, name, column):
    (study / RUN / f"{name}.json").unlink()
    found = dict(faults(study)[RUN])
    assert found["incomplete"].startswith(f"{name}.json: no such file")
    # A run that was asked for alone has no result before the merge.
    assert ("fault" in found) == (name != "before_merge")
    row = read_study(study).runs.set_index("run_id").loc[RUN]
    assert row["value"] == 0.5
    assert np.isnan(row[column])


def prompts(files):
    for name in ("evaluation", "before_merge"):
        files[name].update(prompt_sha256=digest("x"))


# What is changed in the records of a run, and what the fault says.
CHANGES = [
    (lambda files: files["merge"]["inputs"].update(model=digest("x")), "base differs: "),
    (lambda files: files["evaluation"]["inputs"].update(model={"a": digest("x")}), "merged differs: "),
    (prompts, "conflicts with other runs, prompts of t: "),
    (lambda files: files["before_merge"]["inputs"].update(data=digest("x")), "data differs: before_merge.json names "),
    (lambda files: files["selection"]["inputs"].update(model={"a": digest("x")}), "merged differs: "),
]


@pytest.mark.parametrize(("change", "text"), CHANGES)
def test_a_run_whose_records_do_not_meet_has_a_fault(study, write_run, change, text):
    write_run(RUN, change=change, selection=0.5)
    assert any(text in said for kind, said in faults(study)[RUN] if kind == "fault")
    assert set(faults(study)) == {RUN}


# What was changed since it was recorded, and its files in the study.
ALTERED = {
    "mask": ["masks/m/masks_sparsity50_unstructured.pt"],
    "adapter": [f"results/runs/{RUN}/adapter/{name}" for name in FILES_OF["adapter"]],
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_file_is_named_as_a_fault_of_its_run(study, tmp_path, what):
    for name in ALTERED[what]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("altered")
    (fault,) = (text for kind, text in faults(study)[RUN] if kind == "fault")
    assert fault.startswith(f"{what} differs: ") and f"the {what}'s file names" in fault


def test_a_copied_adapter_is_a_fault_of_both_runs(study, write_run):
    def change(files):
        files["train"]["outputs"]["adapter"] = digest(OTHER, "adapter")
        for name in ("merge", "before_merge"):
            files[name]["inputs"]["adapter"] = digest(OTHER, "adapter")

    write_run(RUN, change=change)
    assert {run_id: said[0][1] for run_id, said in faults(study).items()} == {
        RUN: f"conflicts with other runs, adapter: also that of {OTHER}",
        OTHER: f"conflicts with other runs, adapter: also that of {RUN}",
    }


def test_a_run_starts_from_the_adapter_of_its_reconstruction(runs_dir, write_run):
    start = RUN.replace("sparse_to_sparse", "reconstruct")
    run = RUN.replace("sparse_to_sparse", "reconstruct_to_sparse")
    write_run(DENSE)
    write_run(start)
    write_run(run, start=start)
    assert faults(runs_dir) == {}
    assert read_study(runs_dir).runs.set_index("run_id").at[run, "training_tokens"] == 96_000
    write_run(run, start=OTHER)
    assert any("adapter of " + start in text for _, text in faults(runs_dir)[run])


def test_a_proof_that_passed_within_a_tolerance_is_not_one_of_exact_zeros(study, write_run):
    write_run(OTHER, change=lambda files: files["validation_report"].update(tolerance=1e-3, max_abs_pruned=5e-4))
    passed = read_study(study).runs.set_index("run_id")["passed"]
    assert passed.to_dict() == {DENSE: True, RUN: True, OTHER: False}


def test_a_run_with_an_evaluation_on_another_task_is_missing(study, write_run):
    write_run(RUN, change=lambda files: files["evaluation"].update(run_id=None, task="u"))
    assert faults(study)[RUN] == [("missing", "evaluation.json: on the task u")]
