"""The evaluation agrees with plain forward passes, scikit-learn and lm-eval's own task files."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_cache import write
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from project import read_record, succeed
from sklearn.metrics import f1_score, recall_score
from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.boolq_mini import BOOLQ_MINI
from sparseft.axes.tasks.metrics import WIKITEXT2_SHA256, perplexity_name
from sparseft.common.errors import InputError
from sparseft.data.rows import read_rows
from sparseft.evaluation import harness
from sparseft.evaluation.evaluate import evaluate, evaluate_probe
from sparseft.evaluation.harness import run_harness
from sparseft.evaluation.scoring import class_metrics, likeliest, prompt_digest
from sparseft.models.language_model.batches import collate, encode
from sparseft.models.language_model.loss import AnswerLoss
from sparseft.models.language_model.model import load_model
from sparseft.storage.hashes import sha256
from tiny_models import append_token, change_json, prepend_token, rewrite_text, save_tiny
from transformers import AutoTokenizer

pytestmark = pytest.mark.long

CPU = torch.device("cpu")

EXAMPLES = 24


@pytest.fixture(scope="module")
def folder(tiny_models32) -> Path:
    """Return the tiny LLaMA in float32. No two choices are equally likely, and the batch size changes no outcome."""
    return tiny_models32["llama"]


def rows_of(task, number: int = EXAMPLES) -> dict[str, list[dict]]:
    return {split: task.generate(split, number, 0) for split in ("train", "validation")}


@pytest.fixture(scope="module")
def records(folder) -> dict[str, dict]:
    names = ("hellaswag_mini", "boolq_mini", "gsm8k_mini")
    return {name: evaluate(*load_model(folder, CPU), BY_NAME[name], rows_of(BY_NAME[name]), 5) for name in names}


@pytest.mark.parametrize(("name", "chance"), [("hellaswag_mini", 0.25), ("boolq_mini", 0.5)])
def test_the_value_and_the_losses_follow_from_the_rows(folder, records, name, chance):
    task, record, tokenizer = BY_NAME[name], records[name], AutoTokenizer.from_pretrained(folder)
    rows = rows_of(task)["validation"]
    right = [logs[task.label(row)] for row, logs in zip(rows, record["log_likelihoods"], strict=True)]
    p = statistics.fmean(record["outcomes"])
    # Random weights give neither only right answers nor only wrong ones.
    assert 0 < p < 1
    assert record["value"] == pytest.approx(p, abs=1e-12)
    assert record["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / (EXAMPLES - 1)), rel=1e-9)
    assert (record["metric"], record["chance"], record["examples"]) == (task.metric, chance, EXAMPLES)
    assert record["choice_lengths"] == [[len(choice) for choice in task.choices(row)] for row in rows]
    assert record["answer_tokens"] == [len(tokenizer.encode(f" {task.answer(row)}")) for row in rows]
    assert record["losses"] == pytest.approx([-log for log in right], rel=1e-4)
    assert record["eval_loss"] == pytest.approx(-sum(right) / sum(record["answer_tokens"]), rel=1e-5)


def test_chance_is_that_of_the_choices_of_each_row(folder):
    task, rows = BY_NAME["hellaswag_mini"], rows_of(BY_NAME["hellaswag_mini"], 2)
    rows["validation"][0] |= {"endings": rows["validation"][0]["endings"][:2], "label": 0}
    assert evaluate(*load_model(folder, CPU), task, rows, batch_size=8)["chance"] == (1 / 2 + 1 / 4) / 2


@pytest.mark.parametrize(
    ("dtype", "batch_size"), [(torch.bfloat16, 5), (torch.float16, 5), (torch.float32, 5), (torch.float32, 1)]
)
def test_log_likelihoods_are_stock_lm_eval_s_in_float32(tmp_path, dtype, batch_size):
    model, tokenizer = load_model(save_tiny("llama", tmp_path, dtype), CPU)
    task = BY_NAME["hellaswag_mini"]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32")
    _, samples, _ = run_harness(lm, task, rows_of(task))
    found = [[float(log) for log, _ in sample["filtered_resps"]] for sample in samples]
    assert found == evaluate(model, tokenizer, task, rows_of(task), batch_size)["log_likelihoods"]
    # Sums of logarithms in 16 bits would be numbers of 16 bits.
    assert dtype == torch.float32 or torch.tensor(found).to(dtype).tolist() != found


def test_what_generation_config_json_sets_acts_on_generated_answers_and_is_recorded(tmp_path, records):
    folder = save_tiny("llama", tmp_path / "m", torch.float32)
    change_json(folder / "generation_config.json", repetition_penalty=3.0)
    task = BY_NAME["gsm8k_mini"]
    record = evaluate(*load_model(folder, CPU), task, rows_of(task), batch_size=5)
    plain = records["gsm8k_mini"]
    assert record["generation_config"] == plain["generation_config"] | {"repetition_penalty": 3.0}
    assert record["generations"] != plain["generations"]


@pytest.mark.process
def test_neither_the_order_of_the_rows_nor_the_batch_size_changes_an_answer(folder, records):
    task = BY_NAME["gsm8k_mini"]
    rows = rows_of(task)
    rows["validation"].reverse()
    generations = evaluate(*load_model(folder, CPU), task, rows, batch_size=1)["generations"]
    assert generations == records["gsm8k_mini"]["generations"][::-1]


class Loose(LM):
    """Answer a number without the words that lm-eval's strict filter wants."""

    def generate_until(self, requests):
        return [f"It is {request.doc['answer'].split()[-1]}." for request in requests]

    def loglikelihood(self, requests): ...
    def loglikelihood_rolling(self, requests): ...


def test_the_headline_of_an_answer_is_that_of_the_strict_filter_wherever_it_stands(monkeypatch):
    task, stock = BY_NAME["gsm8k_mini"], harness.own_config("gsm8k/gsm8k.yaml")
    for filters in (stock["filter_list"], stock["filter_list"][::-1]):
        monkeypatch.setattr(harness, "own_config", lambda _, filters=filters: stock | {"filter_list": filters})
        metrics, _, outcomes = run_harness(Loose(), task, rows_of(task))
        assert outcomes == EXAMPLES * [0.0]
        assert (metrics["exact_match"], metrics["exact_match_flexible-extract"]) == (0.0, 1.0)


def test_a_model_that_has_learnt_the_answers_writes_them_and_stops(tmp_path, folder):
    task = BY_NAME["gsm8k_mini"]
    rows = task.generate("train", 3, 0)
    model, tokenizer = load_model(folder, CPU)
    learn(model, tokenizer, task, rows, steps=60)
    model.save_pretrained(tmp_path / "learnt")
    tokenizer.save_pretrained(tmp_path / "learnt")
    record = evaluate(*load_model(tmp_path / "learnt", CPU), task, {"train": rows, "validation": rows}, batch_size=2)
    assert (record["outcomes"], record["labels"]) == ([1.0, 1.0, 1.0], [task.answer(row) for row in rows])
    assert (record["metrics"]["exact_match"], record["metrics"]["exact_match_flexible-extract"]) == (1.0, 1.0)
    assert (record["standard_error"], record["eval_loss"] < 0.1) == (0.0, True)


def learn(model, tokenizer, task, rows: list[dict], steps: int) -> None:
    batch = collate(encode(rows, task, tokenizer, 512))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        AnswerLoss(model)(batch).sum().backward()
        optimizer.step()


def test_boolq_s_classes_are_scored_as_scikit_learn_scores_them(folder):
    task, rows = BY_NAME["boolq_mini"], rows_of(BY_NAME["boolq_mini"])
    model, tokenizer = load_model(folder, CPU)
    learn(model, tokenizer, task, rows["validation"][:8], steps=40)  # untrained, it always answers no
    record, rows = evaluate(model, tokenizer, task, rows, batch_size=8), rows["validation"]
    metrics, said, right = record["metrics"], record["predictions"], [int(row["answer"]) for row in rows]
    assert {0, 1} == set(said)
    assert metrics["f1"] == pytest.approx(f1_score(right, said))  # of yes
    recalls = recall_score(right, said, average=None)
    for name, recall, number in zip(("no", "yes"), recalls, (right.count(0), right.count(1)), strict=True):
        assert metrics[f"recall_{name}"] == pytest.approx(recall)
        error = math.sqrt(recall * (1 - recall) / (number - 1))
        assert metrics[f"recall_{name}_stderr"] == pytest.approx(error)
    assert metrics["majority_floor"] == max(right.count(0), right.count(1)) / EXAMPLES
    assert 0.02 < metrics["f1_stderr"] < 0.3


def with_first_token(rows: dict[str, list[dict]]) -> None:
    """Let a prompt begin with the letters of the token that training puts before it, and that lm-eval leaves out."""
    rows["validation"][1]["passage"] = f"<s>{rows['validation'][1]['passage']}"


@pytest.mark.parametrize(("name", "change", "change_rows", "fault"), [
    ("boolq_mini", append_token, None, ".*tokens of the prompt.* 4 of 4 rows, .*number 1"),
    ("gsm8k_mini", append_token, None, ".*tokens of the prompt.* 4 of 4 rows, .*number 1"),
    ("boolq_mini", prepend_token, with_first_token, ".* in 1 of 4 rows, .*number 2"),
    ("boolq_mini", lambda folder: rewrite_text(folder, " yes", " no"), None,
     "two choices have the same tokens in 4 of 4 rows, .*number 1"),
])  # fmt: skip
def test_what_lm_eval_would_score_wrongly_is_refused(tmp_path, name, change, change_rows, fault):
    loaded = load_model(change(save_tiny("llama", tmp_path, torch.float32)), CPU)
    rows = rows_of(BY_NAME[name], 4)
    if change_rows:
        change_rows(rows)
    with pytest.raises(InputError, match=f"^{name}: {fault}"):
        evaluate_probe(*loaded, BY_NAME[name], rows, batch_size=4)


def test_log_likelihoods_that_are_not_finite_are_refused(folder):
    model, tokenizer = load_model(folder, CPU)
    model.lm_head.weight.data[tokenizer.encode("n")] = math.nan
    task = BY_NAME["boolq_mini"]
    with pytest.raises(InputError, match="evaluation loss is nan"):
        evaluate(model, tokenizer, task, rows_of(task, 4), batch_size=4)


@pytest.mark.slow
def test_what_stands_in_the_training_rows_or_in_a_text_of_the_calibration_is_the_overlap(folder, tmp_path):
    flags = {"task": "boolq_mini", "train_examples": 16, "validation_examples": 12}
    succeed("prepare_task.py", **flags, output_dir=tmp_path / "data")
    train, validation = (read_rows(tmp_path / f"data/{split}.jsonl", BOOLQ_MINI) for split in ("train", "validation"))
    # The probe asks what the training rows of the task have taught.
    write(tmp_path / "probe/validation.jsonl", [*train[:6], *BOOLQ_MINI.generate("validation", 40, 1)[:2]])
    write(tmp_path / "probe/train.jsonl", validation)
    text = " ".join(f"Page {number} of the book has {number * 17} words." for number in range(40))
    (tmp_path / "text.txt").write_text(text)
    documents = [f"A row. {BOOLQ_MINI.prompt(row).upper()} yes" for row in validation[:3]]
    write(tmp_path / "web.jsonl", [{"text": document} for document in [*documents, f"It is said: {text}"]])
    names = {"checkpoint": folder, "task": "boolq_mini", "data_dir": tmp_path / "data", "batch_size": 8}
    names |= {"wikitext2": tmp_path / "text.txt", "context": 64, "probes": f"boolq:{tmp_path / 'probe'}"}
    succeed("evaluate.py", **names, output=tmp_path / "without.json")
    names["context"] = "model"
    succeed("evaluate.py", **names, calibration=tmp_path / "web.jsonl", output=tmp_path / "with.json")
    records = [read_record(tmp_path / f"{name}.json") for name in ("without", "with")]
    shares = [(own["overlap"], own["perplexity_overlap"], own["probes"]["boolq"]["overlap"]) for own in records]
    assert shares == [(0.0, 0.0, 0.75), (0.25, 1.0, 0.75)]
    probe = records[0]["probes"]["boolq"]
    digests = [sha256(tmp_path / f"probe/{split}.jsonl") for split in ("validation", "train")]
    assert [probe["data_sha256"], probe["train_sha256"], probe["examples"]] == [*digests, 8]
    # The context of the model is 512 tokens.
    for record, length in zip(records, (64, 512), strict=True):
        assert [name for name in record["metrics"] if "_ppl_" in name] == [f"local_text_ppl_{length}"]
    assert records[1]["inputs"]["calibration"] == [sha256(tmp_path / "web.jsonl")]


def test_the_first_of_equally_likely_choices_is_taken_and_the_tie_counted():
    logs = [[-1.0, -1.0], [-3.0, -2.0, -2.0], [-1.0, -2.0]]
    predictions, ties = likeliest(logs)
    assert (predictions.tolist(), ties) == ([0, 1, 0], 2)
    predictions, ties = likeliest(logs, [[1, 2], [3, 1, 2], [1, 2]])
    assert (predictions.tolist(), ties) == ([1, 0, 0], 2)


def test_a_class_that_is_never_right_has_no_recall():
    metrics = class_metrics([0, 0, 0], np.array([0, 1, 0]), ("no", "yes"))
    assert metrics["recall_no"] == pytest.approx(2 / 3)
    assert metrics["recall_yes"] is metrics["recall_yes_stderr"] is None


def test_the_digest_of_the_prompts_follows_every_text_and_their_order():
    rows = BOOLQ_MINI.generate("validation", 3, 0)
    another_answer = [*rows[:2], rows[2] | {"answer": not rows[2]["answer"]}]
    assert len({prompt_digest(BOOLQ_MINI, part) for part in (rows, rows[::-1], rows[:2], another_answer)}) == 4
    assert prompt_digest(BOOLQ_MINI, [dict(row) for row in rows]) == prompt_digest(BOOLQ_MINI, rows)


def test_no_text_but_wikitext2_gives_its_name():
    assert perplexity_name(WIKITEXT2_SHA256, 2048) == "wikitext2_ppl_2048"
    assert perplexity_name("f" * 64, 20) == "local_text_ppl_20"
