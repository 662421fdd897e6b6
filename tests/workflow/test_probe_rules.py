"""A task of lm-eval is trained and evaluated from its YAML file, and every merged model is evaluated on the probes."""

import csv
import json

import pytest
import yaml
from hub_cache import write
from project import TINY_STUDY, Study, tiny_grid

TASK = {
    "output_type": "multiple_choice",
    "training_split": "train",
    "validation_split": "validation",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "right",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
RUN = "results/runs/llama-mine-dense-sparsity00-no_finetune-seed0"


def own_row(number: int) -> dict:
    return {"question": f"Do {number} stones melt?", "options": ["yes", "never"], "right": number % 2}


def arc_row(number: int) -> dict:
    choices = {"text": ["ice", f"{number} stones"], "label": ["A", "B"]}
    return {"question": f"Which of {number} melts?", "choices": choices, "answerKey": "AB"[number % 2]}


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    """Return a study of a task from a YAML file, with lm-eval's arc_easy as a probe on rows in its original fields."""
    study = Study(tmp_path / "study")
    for folder, row in (("rows", own_row), ("arc", arc_row)):
        for split, start in (("train", 0), ("validation", 50)):
            write(study.folder / f"{folder}/{split}.jsonl", [row(number) for number in range(start, start + 12)])
    (study.folder / "task.yaml").write_text(yaml.safe_dump(TASK))
    tasks = {
        "mine": {"lm_eval": "task.yaml", "local": "rows"},
        "arc_easy": {"lm_eval": "arc_easy", "local": "arc"},
    }
    grid = {**tiny_grid("llama", "mine", ["random"]), "sparsities": [0], "modes": ["sparse_to_dense"]}
    sections = {**TINY_STUDY, "tasks": tasks, "evaluation": {"probes": ["arc_easy", "mine"]}}
    study.configure(tiny_models, grid=grid, **sections)
    return study


def test_the_plan_prepares_a_probe_and_gives_it_to_the_evaluation_of_the_merged_model_only(study):
    said = study.snakemake("--dry-run", "--printshellcmds")
    assert "--task arc_easy --lm_eval arc_easy --local arc" in said.replace("'", "")
    commands = [line for line in said.splitlines() if "evaluate" in line and "python" in line]
    merged = [line for line in commands if "evaluate.py" in line]
    # A run's own task is no probe of it.
    assert merged and all("--probes arc_easy:data/arc_easy --output" in line for line in merged)
    assert not any("--probes" in line for line in commands if line not in merged)
    prepared = [line for line in said.splitlines() if "prepare_task.py" in line]
    assert [("--only_probe" in line) for line in sorted(prepared)] == [True, False]


@pytest.mark.slow
def test_results_of_a_probe_stand_in_the_evaluation_and_in_the_summary(study):
    study.snakemake()
    record = study.json(f"{RUN}/evaluation.json")
    probe = record["probes"]["arc_easy"]
    manifest = study.json("data/arc_easy/manifest.json")
    assert probe["data_sha256"] == manifest["sha256"]["validation"]
    assert (probe["examples"], probe["chance"]) == (12, 0.5)
    assert manifest["definition"]["file"] == "arc/arc_easy.yaml"
    assert record["definition_sha256"] != probe["definition_sha256"]
    with open(study.folder / "results/analysis/summary.csv") as file:
        rows = {row["run_id"]: row for row in csv.DictReader(file)}
    row = rows[RUN.rpartition("/")[2]]
    assert float(row["probe_arc_easy"]) == pytest.approx(probe["value"], rel=1e-9)
    # A change of how rows are scored evaluates and trains again, although the rows stay the same.
    assert "evaluate_run" not in study.planned()
    file = study.folder / "task.yaml"
    changed = [{**TASK["metric_list"][0], "metric": metric} for metric in ("acc_norm", "acc")]
    file.write_text(yaml.safe_dump({**TASK, "metric_list": changed}))
    assert {"prepare_task", "train_adapter", "evaluate_run"} <= study.planned().keys()
    json.dumps(record, allow_nan=False)
