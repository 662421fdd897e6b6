"""The tasks of one's own on the page docs/tasks.md, as it shows them, from their files to the evaluated merge."""

import csv
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from project import ROOT, Study, call_script, succeed
from tiny_models import CHAT_TEMPLATE, save_tiny

PAGE = (ROOT / "docs/tasks.md").read_text()
FILE = re.compile(r'^```\w+ title="(my_\w+/[^"]+|own\.yaml)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TASKS = ["prompts", "chats", "notes"]
MASK = "masks/m/masks_sparsity50_unstructured.pt"
SETTINGS = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.02, "lora_r": 4}


@dataclass(frozen=True)
class Page:
    """Hold a folder with the files of the page and a prepared model `m` with its mask."""

    folder: Path
    tasks: dict[str, dict]

    def prepare(self, task: str, **changes: object) -> tuple[int, str]:
        """Prepare a task with prepare_task.py; return its exit code and what it printed."""
        keys = self.tasks[task] | changes
        return call_script("prepare_task.py", task=task, output_dir=self.folder / "data" / task, **keys)

    def run_flags(self, task: str) -> dict[str, object]:
        """Return the flags by which the scripts find a run's inputs."""
        return {
            "run_id": f"m-{task}-unstructured-sparsity50-sparse_to_sparse-seed0",
            "model_path": "models/m",
            "mask_path": MASK,
        }


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("own")
    for name, content in FILE.findall(PAGE):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    source = save_tiny("llama", folder / "source", torch.float32)
    (source / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("prepare_model.py", source=f"path:{source}", dtype="float32", output_dir="models/m")
        succeed("compute_masks.py", model_path="models/m", output_dir="masks/m", sparsity="0.5", method="unstructured")
    return Page(folder, yaml.safe_load((folder / "own.yaml").read_text())["tasks"])


@pytest.fixture(autouse=True)
def inside(page, monkeypatch) -> None:
    """Run the scripts in the page's folder."""
    monkeypatch.chdir(page.folder)


def test_the_speed_of_a_training_on_a_text_is_measured(page, tmp_path):
    assert page.prepare("notes")[0] == 0
    flags = {"model_path": "models/m", "mask_path": MASK, "data_dir": "data/notes", "output": tmp_path / "cell.json"}
    steps = {"batch_sizes": 2, "warmup_steps": 0, "steps": 2, "repeats": 1, "lora_r": 4}
    succeed("measure_throughput.py", cell="m-notes-unstructured-sparsity50-sparse_to_sparse", **flags, **steps)
    ((repeat,),) = (batch["repeats"] for batch in json.loads((tmp_path / "cell.json").read_text())["batches"])
    # Two steps of two sequences of 32 tokens.
    assert repeat["tokens"] == repeat["padded_tokens"] == 2 * 2 * 32


@pytest.mark.slow
def test_the_study_of_the_page_ends_in_tables_without_a_fault(page, tmp_path):
    study = Study(tmp_path / "study")
    shutil.copytree(page.folder / "source", study.folder / "m")
    for folder in page.folder.glob("my_*"):
        shutil.copytree(folder, study.folder / folder.name)
    # The masks calibrate on the tasks too.
    grid = {
        "models": ["m"],
        "tasks": TASKS,
        "methods": ["unstructured_wanda"],
        "sparsities": [50],
        "modes": ["sparse_to_sparse"],
    }
    study.configure(
        {"m": study.folder / "m"}, tasks=page.tasks, grid=grid, training=SETTINGS, masks={"calibration_examples": 3}
    )
    study.snakemake("results/analysis/summary.csv", "--cores", "2", "--quiet", "all")
    with open(study.folder / "results/analysis/summary.csv", newline="") as file:
        table = list(csv.DictReader(file))
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
        assert after["value"] == pytest.approx(train["eval_loss"], rel=1e-6) and after["value"] > 0
        assert len(after["losses"]) == len(after["answer_tokens"]) == after["examples"]
        assert after["inputs"]["data"] == study.json(f"data/{task}/manifest.json")["sha256"]["validation"]


def test_a_conversation_without_a_chat_template_is_refused_before_the_training(page, tmp_path):
    assert page.prepare("chats")[0] == 0
    source = save_tiny("llama", tmp_path / "source", torch.float32)
    succeed("prepare_model.py", source=f"path:{source}", dtype="float32", output_dir=tmp_path / "m")
    succeed("compute_masks.py", model_path=tmp_path / "m", output_dir=tmp_path, sparsity="0.5", method="unstructured")
    flags = page.run_flags("chats") | {
        "model_path": tmp_path / "m",
        "mask_path": tmp_path / "masks_sparsity50_unstructured.pt",
        "data_dir": "data/chats",
    }
    code, printed = call_script("train.py", **flags, **SETTINGS, output_dir=tmp_path / "run")
    assert code == 2
    assert re.search(r"error: chats: .* has no chat template; put chat_template.jinja into the folder", printed)
    assert not (tmp_path / "run/adapter").exists()


@pytest.mark.parametrize(("task", "changes", "fault"), [
    ("notes", {"local": "my_chats"}, r"my_chats/train\.jsonl, line 1: field 'text' is missing"),
    ("prompts", {"local": "my_notes"}, r"my_notes/train\.jsonl: no such file"),
    ("notes", {"length": 1}, "--length: .* not '1'"),
    ("prompts", {"kind": "poem"}, "--kind: .* not 'poem'"),
])  # fmt: skip
def test_other_data_than_the_kind_s_is_refused_in_one_line(page, task, changes, fault):
    code, printed = page.prepare(task, **changes)
    assert code == 2
    assert re.match(rf"error: {fault}.*\n$", printed), printed


@pytest.mark.parametrize(("length", "fault"), [
    (600, r"error: tasks\.notes\.length is 600 tokens, but the model takes 512; set it to 512 or less\n"),
    (400, r"error: notes: a split has \d+ tokens, which are fewer than two sequences of 400; "),
])  # fmt: skip
def test_a_length_that_the_model_or_the_text_does_not_have_is_refused_before_the_training(
    page, length, fault, tmp_path
):
    keys = {"task": "notes", **page.tasks["notes"], "length": length}
    succeed("prepare_task.py", **keys, output_dir=tmp_path / "data")
    flags = page.run_flags("notes") | {"data_dir": tmp_path / "data", "output_dir": tmp_path / "run"}
    code, printed = call_script("train.py", **flags, **SETTINGS)
    assert code == 2
    assert re.search(fault, printed), printed
    assert not (tmp_path / "run/adapter").exists()
