"""The tasks of one's own on the page docs/tasks.md, as it shows them, from their files to the evaluated merge."""

import math
import re

import pytest
import torch
import yaml
from project import ROOT, Study
from tiny_models import CHAT_TEMPLATE, save_tiny

FILE = re.compile(r'^```\w+ title="(my_\w+/[^"]+|own\.yaml)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES = dict(FILE.findall((ROOT / "docs/tasks.md").read_text()))
OWN = yaml.safe_load(FILES["own.yaml"])["tasks"]
TASKS = ["prompts", "chats", "notes"]
SETTINGS = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.02, "lora_r": 4}


def test_a_template_in_the_configuration_has_no_fields_of_snakemake(tmp_path):
    (tmp_path / "study.yaml").write_text("tasks: {mine: {lm_eval: gsm8k, answer: 'So {{question}}'}}")
    assert "write_configuration" in Study(tmp_path).snakemake("--dry-run")


@pytest.mark.slow
def test_the_study_of_the_page_ends_in_tables_without_a_fault(tmp_path):
    assert list(OWN) == TASKS
    study = Study(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    save_tiny("llama", tmp_path / "m", torch.float32)
    (tmp_path / "m/chat_template.jinja").write_text(CHAT_TEMPLATE)
    # The masks calibrate on the tasks too.
    grid = {"models": ["m"], "tasks": TASKS, "methods": ["unstructured_wanda"], "sparsities": [50]}
    sections = {"grid": grid | {"modes": ["sparse_to_sparse"]}, "masks": {"calibration_examples": 3}}
    study.configure({"m": tmp_path / "m"}, tasks=OWN, training=SETTINGS, **sections)
    study.snakemake("results/analysis/summary.csv", "--cores", "2", "--quiet", "all")
    table = study.table()
    assert sorted(row["task"] for row in table) == sorted(2 * TASKS)
    for row in table:
        assert (row["status"], row["metric"]) == ("sound", "loss")
        assert float(row["value"]) == float(row["eval_loss"])
        assert float(row["token_perplexity"]) == pytest.approx(math.exp(float(row["value"])))
    for task in TASKS:
        run = f"results/runs/m-{task}-unstructured_wanda-sparsity50-sparse_to_sparse-seed0"
        train, after, before = (study.json(f"{run}/{name}.json") for name in ("train", "evaluation", "before_merge"))
        assert train["definition_sha256"] == after["definition_sha256"] == before["definition_sha256"]
        # On a CPU, the merge of sparse_to_sparse keeps every bit.
        assert after["losses"] == before["losses"]
        assert after["value"] == pytest.approx(before["value"], rel=1e-6) and after["value"] > 0
        assert len(after["losses"]) == len(after["answer_tokens"]) == after["examples"]
        assert after["inputs"]["data"] == study.json(f"data/{task}/validation_manifest.json")["sha256"]["validation"]
