"""The third split of a study with named trainings: what is planned, what stays as it is, and what is refused."""

from pathlib import Path

import pytest
import yaml
from hub_cache import write
from project import Study, succeed, tiny_grid

CELL = "results/runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_dense"
UNTRAINED = "results/runs/llama-boolq_mini-unstructured-sparsity50-no_finetune-seed0"
OF_RUN = "train_adapter merge_adapter validate_sparsity evaluate_run evaluate_adapter evaluate_selection".split()
ANALYSIS = {"write_configuration": 1, "analyze_results": 1, "analyze": 1}
SHORT = {"short": {"steps": 2}}
LONG = {"long": {"steps": 4, "learning_rate": 0.01}}


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    study = Study(tmp_path / "study")
    study.models = tiny_models
    return study


def configure(study: Study, trainings: dict, **sections: object) -> None:
    """Write a study of one trained cell at 50 % with these trainings."""
    cell = {"sparsities": [50], "modes": ["sparse_to_dense"], "trainings": trainings}
    grid = tiny_grid("llama", "boolq_mini", ["unstructured"], **cell, **sections.pop("grid", {}))
    study.configure(study.models, grid=grid, keep_merged=True, **sections)


def test_the_untrained_run_of_a_study_with_named_trainings_has_no_selection(study):
    configure(study, SHORT | LONG)
    output = study.snakemake(f"{UNTRAINED}/selection.json", "--dry-run", expect=2)
    assert "no stage and no rule makes it" in output


def test_selection_rows_are_chosen_again_without_the_other_rows_for_their_own_flags(study):
    for split, word in (("train", "Ice"), ("validation", "Snow")):
        rows = [{"passage": f"{word} {n}.", "question": "is it", "answer": n % 2 == 0} for n in range(8)]
        write(study.folder / f"own/{split}.jsonl", rows)
    task, chosen = {"local": "own", "train_examples": 4}, "data/boolq/selection.jsonl"
    configure(study, SHORT, tasks={"boolq": task}, grid={"tasks": ["boolq"]})
    study.snakemake(chosen)
    assert study.planned(chosen) == {}
    configure(study, SHORT, tasks={"boolq": task | {"selection_examples": 2}}, grid={"tasks": ["boolq"]})
    assert study.planned(chosen) == {"prepare_selection": 1}


@pytest.mark.slow
def test_trainings_that_are_added_to_a_finished_study_leave_its_runs_as_they_are(own_study):
    study = own_study
    # Another test process may have made the model.
    source = yaml.safe_load((study.folder / "study.yaml").read_text())["models"]["llama"]["source"]
    study.models = {"llama": Path(source.removeprefix("path:"))}
    before = {path: path.read_bytes() for path in sorted((study.folder / "data").rglob("*.json*"))}
    before |= {path: path.read_bytes() for path in (study.folder / f"{CELL}-seed0").glob("*.json")}

    configure(study, SHORT)
    planned = study.planned()
    assert planned == dict.fromkeys(OF_RUN, 1) | {"prepare_selection": 1} | ANALYSIS
    study.snakemake()
    assert study.planned() == {}
    assert {path: path.read_bytes() for path in before} == before
    record = study.json(f"{CELL}-short-seed0/selection.json")
    manifest = study.json("data/boolq_mini/selection_manifest.json")
    assert record["inputs"]["data"] == manifest["sha256"]
    assert {split: record["inputs"][split] for split in ("train", "validation")} == manifest["disjoint_from"]
    assert not (study.folder / UNTRAINED / "selection.json").exists()
    rows = {row["run_id"]: row for row in study.table()}
    row = rows.pop(Path(f"{CELL}-short-seed0").name)
    assert (float(row["selection_value"]), record["examples"]) == (pytest.approx(record["value"]), 12)
    assert row["status"] == "sound"
    assert {other["selection_value"] for other in rows.values()} == {""}

    configure(study, SHORT | LONG)
    assert study.planned() == dict.fromkeys(OF_RUN, 1) | ANALYSIS
    configure(study, SHORT)
    # Without its record, the run is in the tables, and missing.csv says what it lacks.
    (study.folder / f"{CELL}-short-seed0/selection.json").unlink()
    assert study.planned()["evaluate_selection"] == 1
    succeed("analyze_results.py", results_dir=study.folder / "results/runs", output_dir=study.folder / "again")
    (gap,) = study.table("again/missing.csv")
    assert (gap["left_out"], gap["reason"].partition(";")[0]) == ("False", "selection.json: no such file or directory")
    assert study.json(f"{CELL}-short-seed0/train.json")["steps"] == 2
