"""A task of lm-eval is trained and evaluated from its YAML file; every merged model is evaluated on the probes and on a
text."""

import json
import re

import pytest
import yaml
from hub_cache import write
from project import ROOT, TINY_STUDY, Study, tiny_grid
from sparseft.evaluation.evaluate import token_perplexity
from sparseft.language_model.model import load_model
from sparseft.storage.hashes import sha256
from torch import device

PAGE = (ROOT / "docs/tasks.md").read_text()
FILE = re.compile(
    r'^```\w+ title="(my_task\.yaml|my_questions/[^"]+|questions\.yaml)"\n(.*?)^```$', re.MULTILINE | re.DOTALL
)
DOCUMENTS = ["The cat sat on the mat, and then it ran away. ", "", "It came back."]
RUN = "results/runs/llama-questions-dense-sparsity00-no_finetune-seed0"


def arc_row(number: int) -> dict:
    choices = {"text": ["ice", f"{number} stones"], "label": ["A", "B"]}
    return {"question": f"Which of {number} melts?", "choices": choices, "answerKey": "AB"[number % 2]}


@pytest.fixture
def study(tmp_path, tiny_models) -> Study:
    """Return the study of docs/tasks.md with a task from a YAML file, lm-eval's arc_easy as a probe on local rows, and
    a text."""
    study = Study(tmp_path / "study")
    for name, content in FILE.findall(PAGE):
        (study.folder / name).parent.mkdir(exist_ok=True)
        (study.folder / name).write_text(content)
    for split, start in (("train", 0), ("validation", 50)):
        write(study.folder / f"arc/{split}.jsonl", [arc_row(number) for number in range(start, start + 12)])
    shown = yaml.safe_load((study.folder / "questions.yaml").read_text())
    assert shown["grid"]["tasks"] == list(shown["tasks"]) == ["questions"]
    tasks = shown["tasks"] | {"arc_easy": {"lm_eval": "arc_easy", "local": "arc"}}
    grid = {**tiny_grid("llama", "questions", ["random"]), "sparsities": [0], "modes": ["sparse_to_dense"]}
    training = {**TINY_STUDY["training"], "steps": 3}
    probes = {"probes": ["arc_easy", "questions"]}
    write(study.folder / "wiki.jsonl", [{"text": text} for text in DOCUMENTS])
    text = {"local": "wiki.jsonl", "context": 20}
    study.configure(tiny_models, grid=grid, tasks=tasks, training=training, evaluation=probes, perplexity=text)
    return study


def test_the_plan_prepares_a_probe_and_gives_it_to_the_evaluation_of_the_merged_model_only(study):
    lines = study.commands()
    commands = [line for line in lines if "evaluate" in line and "python" in line]
    merged = [line for line in commands if "evaluation.json" in line]
    # A run's own task is no probe of it.
    assert merged and all("--probes arc_easy:data/arc_easy --" in line for line in merged)
    assert not any("--probes" in line for line in commands if line not in merged)
    prepared = [line for line in lines if "prepare_task.py" in line]
    assert any("--lm_eval arc_easy" in line and "--local arc" in line for line in prepared)
    # The training and the validation rows of each.
    assert [("--only_probe=True" in line) for line in sorted(prepared)] == [True, True, False, False]


@pytest.mark.slow
def test_results_of_a_probe_and_the_perplexity_stand_in_the_evaluation_and_in_the_summary(study):
    study.snakemake()
    record = study.json(f"{RUN}/evaluation.json")
    probe = record["probes"]["arc_easy"]
    manifest = study.json("data/arc_easy/manifest.json")
    assert probe["data_sha256"] == study.json("data/arc_easy/validation_manifest.json")["sha256"]["validation"]
    assert (probe["examples"], probe["chance"]) == (12, 0.5)
    assert manifest["definition"]["file"] == "arc/arc_easy.yaml"
    assert record["definition_sha256"] != probe["definition_sha256"]
    (row,) = [row for row in study.table() if row["run_id"] == RUN.rpartition("/")[2]]
    assert float(row["probe_arc_easy"]) == pytest.approx(probe["value"], rel=1e-9)
    text = study.folder / "data/wikitext2.txt"
    assert text.read_text() == "\n\n".join(DOCUMENTS)
    assert record["inputs"]["wikitext2"] == sha256(text)
    # The run at sparsity 00 without training is the original model. Only WikiText-2's perplexity has its name.
    loaded = load_model(study.folder / "models/llama", device("cpu"))
    expected = token_perplexity(*loaded, text.read_text(), 20)
    assert record["metrics"]["local_text_ppl_20"] == expected
    assert float(row["local_text_ppl_20"]) == float(f"{expected:.10g}")
    assert record["perplexity_source"] == {"local": sha256(study.folder / "wiki.jsonl")}
    # A change of how rows are scored evaluates and trains again, although the rows stay the same.
    assert "evaluate_run" not in study.planned()
    file = study.folder / "my_task.yaml"
    content = yaml.safe_load(file.read_text())
    (acc,) = content["metric_list"]
    file.write_text(yaml.safe_dump(content | {"metric_list": [{**acc, "metric": "acc_norm"}, acc]}))
    assert {"prepare_task", "train_adapter", "evaluate_run"} <= study.planned().keys()
    json.dumps(record, allow_nan=False)


def test_the_stage_prepare_makes_all_that_nodes_without_network_need(study):
    calibrated = (
        "masks={calibration: {mine: {text: wiki.jsonl}}}",
        "grid={methods: [unstructured_wanda_on_mine], sparsities: [50]}",
    )
    assert study.planned("prepare", "--config", *calibrated) == {
        "prepare_model": 1, "prepare_task": 2, "prepare_validation": 2,
        "prepare_wikitext2": 1, "prepare_calibration": 1, "prepare": 1,
    }  # fmt: skip
