"""The tasks on the page docs/tasks.md, as it shows them, with a probe and the perplexity of a text."""

import re

import pytest
import torch
import yaml
from hub_cache import write
from project import ROOT, Study, tiny_grid
from sparseft.evaluation.evaluate import token_perplexity
from sparseft.models.language_model.model import load_model
from sparseft.storage.hashes import sha256
from tiny_models import CHAT_TEMPLATE, save_tiny

FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES = dict(FILE.findall((ROOT / "docs/tasks.md").read_text()))
OWN, QUESTIONS = (yaml.safe_load(FILES[name])["tasks"] for name in ("own.yaml", "questions.yaml"))
# The page shows the training files only.
VALIDATION = {
    "my_questions/validation.jsonl": [
        {"question": "Which of these burns?", "options": ["water", "wood"], "right": 1},
        {"question": "Which of these can swim?", "options": ["a fish", "a hen"], "right": 0},
    ],
    "my_prompts/validation.jsonl": [
        {"prompt": "Name the capital of Spain.\n", "response": "It is Madrid."},
        {"prompt": "How many legs has a cat?\n", "response": "It has four legs."},
    ],
    "my_chats/validation.jsonl": [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in (("What colour is coal?", "Black."), ("What is 4 + 4?", "8"))
    ],
}
NOTES = (
    "The lake lies in the forest above the town. In winter the children cross it on their way to school, and men cut"
    " holes into its ice. "
)
DOCUMENTS = ["The cat sat on the mat, and then it ran away. ", "", "It came back."]
RUN = "results/runs/m-{}-unstructured_wanda-sparsity50-sparse_to_sparse-seed0"
UNTRAINED = "results/runs/m-questions-unstructured_wanda-sparsity50-no_finetune-seed0"


def arc_row(number: int) -> dict:
    choices = {"text": ["ice", f"{number} stones"], "label": ["A", "B"]}
    return {"question": f"Which of {number} melts?", "choices": choices, "answerKey": "AB"[number % 2]}


def make(study: Study, *own: str) -> Study:
    """Return the study of the page's task from a YAML file and of its tasks `own`, with lm-eval's arc_easy as a probe
    on local rows, and a text."""
    for name, content in FILES.items():
        (study.folder / name).parent.mkdir(exist_ok=True)
        (study.folder / name).write_text(content)
    for name, rows in VALIDATION.items():
        write(study.folder / name, rows)
    (study.folder / "my_notes/validation.txt").write_text(NOTES)
    for split, start in (("train", 0), ("validation", 50)):
        write(study.folder / f"arc/{split}.jsonl", [arc_row(number) for number in range(start, start + 12)])
    write(study.folder / "wiki.jsonl", [{"text": text} for text in DOCUMENTS])
    save_tiny("llama", study.folder / "m", torch.float32)
    (study.folder / "m/chat_template.jinja").write_text(CHAT_TEMPLATE)
    tasks = {name: OWN[name] for name in own} | QUESTIONS
    grid = {"tasks": list(tasks), "sparsities": [50], "modes": ["sparse_to_sparse"]}
    return study.configure(
        {"m": study.folder / "m"},
        grid=tiny_grid("m", "", ["unstructured_wanda"], **grid),
        tasks=tasks | {"arc_easy": {"lm_eval": "arc_easy", "local": "arc"}},
        # The masks calibrate on the tasks too.
        masks={"calibration_examples": 2},
        training={"steps": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 0.02, "lora_r": 4},
        evaluation={"probes": ["arc_easy", "questions"]},
        perplexity={"local": "wiki.jsonl", "context": 20},
        keep_merged=True,
    )


@pytest.fixture
def study(tmp_path) -> Study:
    return make(Study(tmp_path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Study:
    study = make(Study(tmp_path_factory.mktemp("own")), *OWN)
    study.snakemake("--cores", "2", "--quiet", "all")
    return study


@pytest.mark.slow
def test_a_template_in_the_configuration_has_no_fields_of_snakemake(tmp_path):
    (tmp_path / "study.yaml").write_text("tasks: {mine: {lm_eval: gsm8k, answer: 'So {{question}}'}}")
    assert "write_configuration" in Study(tmp_path).snakemake("--dry-run")


def test_the_plan_prepares_a_probe_and_gives_it_to_the_evaluation_of_the_merged_model_only(study):
    lines = study.commands()
    commands = [line for line in lines if "evaluate" in line and "python" in line]
    merged = [line for line in commands if "evaluation.json" in line]
    # A run's own task is not one of its probes.
    assert merged and all("--probes arc_easy:data/arc_easy --" in line for line in merged)
    assert not any("--probes" in line for line in commands if line not in merged)
    prepared = [line for line in lines if "prepare_task.py" in line]
    assert any("--lm_eval arc_easy" in line and "--local arc" in line for line in prepared)
    # The training and the validation rows of each.
    assert sorted("--only_probe=True" in line for line in prepared) == [False, False, True, True]


def test_the_stage_prepare_makes_all_that_nodes_without_network_need(study):
    masks, grid = "masks={calibration: {mine: {text: wiki.jsonl}}}", "grid={methods: [unstructured_wanda_on_mine]}"
    once = dict.fromkeys(("prepare_model", "prepare_wikitext2", "prepare_calibration", "prepare"), 1)
    planned = study.planned("prepare", "--config", masks, grid)
    assert planned == once | {"prepare_task": 2, "prepare_validation": 2}


@pytest.mark.slow
def test_the_study_of_the_page_ends_in_tables_without_a_fault(finished):
    table = finished.table()
    assert {row["status"] for row in table} == {"sound"}
    assert {row["task"] for row in table} == {*OWN, *QUESTIONS}
    for row in table:
        assert (row["metric"] == "loss") == (row["task"] in OWN)
    for task in OWN:
        names = ("train", "evaluation", "before_merge")
        train, after, before = (finished.json(f"{RUN.format(task)}/{name}.json") for name in names)
        assert train["definition_sha256"] == after["definition_sha256"] == before["definition_sha256"]
        # On a CPU, the merge of sparse_to_sparse keeps every bit.
        assert after["losses"] == before["losses"]
        assert len(after["losses"]) == len(after["answer_tokens"]) == after["examples"]
        rows = finished.json(f"data/{task}/validation_manifest.json")["sha256"]["validation"]
        assert after["inputs"]["data"] == rows


@pytest.mark.slow
def test_results_of_a_probe_and_the_perplexity_stand_in_the_evaluation_and_in_the_summary(finished):
    record = finished.json(f"{UNTRAINED}/evaluation.json")
    probe = record["probes"]["arc_easy"]
    manifest = finished.json("data/arc_easy/manifest.json")
    assert probe["data_sha256"] == finished.json("data/arc_easy/validation_manifest.json")["sha256"]["validation"]
    assert (probe["examples"], probe["chance"]) == (12, 0.5)
    assert manifest["definition"]["file"] == "arc/arc_easy.yaml"
    assert record["definition_sha256"] != probe["definition_sha256"]
    (row,) = [row for row in finished.table() if row["run_id"] == UNTRAINED.rpartition("/")[2]]
    assert float(row["probe_arc_easy"]) == pytest.approx(probe["value"], rel=1e-9)
    text = finished.folder / "data/wikitext2.txt"
    assert text.read_text() == "\n\n".join(DOCUMENTS)
    assert record["inputs"]["wikitext2"] == sha256(text)
    # Only WikiText-2's perplexity has its name.
    loaded = load_model(finished.folder / UNTRAINED / "model_dir", torch.device("cpu"))
    expected = token_perplexity(*loaded, text.read_text(), 20)
    assert record["metrics"]["local_text_ppl_20"] == expected
    assert float(row["local_text_ppl_20"]) == float(f"{expected:.10g}")
    assert record["perplexity_source"] == {"local": sha256(finished.folder / "wiki.jsonl")}
