"""The third split of a study with named trainings."""

from contextlib import AbstractContextManager

import pytest
from project import Study, succeed

RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-{}seed0"
UNTRAINED = "results/runs/llama-boolq_mini-unstructured-sparsity50-no_finetune-seed0"
OF_RUN = "train_adapter merge_adapter validate_sparsity evaluate_run evaluate_adapter evaluate_selection".split()
MANIFEST = "data/boolq_mini/selection_manifest.json"
ANALYSIS = {"write_configuration": 1, "analyze_results": 1, "analyze": 1}
SHORT, LONG = "short: {steps: 2}", "long: {steps: 4, learning_rate: 0.01}"


def trainings(study: Study, *names: str) -> AbstractContextManager:
    """Give the study's three trained cells named trainings."""
    return study.edited("  tasks:\n", f"  trainings: {{{', '.join(names)}}}\n  tasks:\n")


@pytest.mark.slow
def test_trainings_that_are_added_to_a_finished_study_leave_its_runs_as_they_are(own_study):
    run, evaluated = f"results/runs/{RUN.format('short-')}", own_study.folder / "results/runs" / RUN.format("")
    before = {path: path.read_bytes() for path in sorted((own_study.folder / "data").rglob("*.json*"))}
    before |= {path: path.read_bytes() for path in evaluated.glob("*.json")}
    with trainings(own_study, SHORT):
        assert own_study.planned() == dict.fromkeys(OF_RUN, 3) | {"prepare_selection": 1} | ANALYSIS
        output = own_study.snakemake(f"{UNTRAINED}/selection.json", "--dry-run", expect=2)
        assert "no stage and no rule makes it" in output
        own_study.snakemake()
        assert own_study.planned() == {}
    assert {path: path.read_bytes() for path in before} == before
    record, manifest = (own_study.json(place) for place in (f"{run}/selection.json", MANIFEST))
    assert record["inputs"]["data"] == manifest["sha256"]
    assert {split: record["inputs"][split] for split in ("train", "validation")} == manifest["disjoint_from"]
    rows = {row["run_id"]: row for row in own_study.table()}
    row = rows[RUN.format("short-")]
    assert (float(row["selection_value"]), record["examples"]) == (pytest.approx(record["value"]), 12)
    assert row["status"] == "sound"
    assert [bool(row["selection_value"]) for row in rows.values()] == ["-short-" in run_id for run_id in rows]

    with trainings(own_study, SHORT, LONG):
        assert own_study.planned() == dict.fromkeys(OF_RUN, 3) | ANALYSIS
    # Without its record, the run is in the tables, and missing.csv says what it lacks.
    (own_study.folder / run / "selection.json").unlink()
    with trainings(own_study, SHORT):
        assert own_study.planned()["evaluate_selection"] == 1
    succeed("analyze_results.py", results_dir=own_study.folder / "results/runs", output_dir=own_study.folder / "again")
    (gap,) = own_study.table("again/missing.csv")
    assert (gap["left_out"], gap["reason"].partition(";")[0]) == ("False", "selection.json: no such file or directory")
