"""Tasks of lm-eval beside stock lm-eval, which reads the same rows and runs its own model class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import disable_progress_bars
from hub_cache import COLOURS, COMMIT, colour_row, publish, write
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from project import call_script, succeed
from sparseft.common.errors import InputError
from sparseft.data.lm_eval_definitions import FOLDER, read_definition
from sparseft.data.lm_eval_examples import load_lm_eval_examples
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.settings import TaskData
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.harness import run_harness
from sparseft.evaluation.scoring import BOOTSTRAP
from sparseft.models.language_model.batches import encode

# lm-eval starts git and tools that describe the machine.
pytestmark = pytest.mark.slow
# One row of each task in the fields that the hub has, with {n} for its number.
ROWS = {
    "arc_easy": lambda n: {"id": f"q{n}", "question": f"Which of these {n} things melts?", "answerKey": "ABC"[n % 3],
                           "choices": {"text": ["ice", f"a stone of {n} kg", "wood"], "label": ["A", "B", "C"]}},
    "piqa": lambda n: {"goal": f"open {n} jars", "sol1": "turn the lid", "sol2": f"turn {n} jars over", "label": n % 2},
    "winogrande": lambda n: {"sentence": f"The {n} cups did not fit, so the _ stayed out.", "option1": "cups",
                             "option2": "very large box", "answer": "12"[n % 2]},
    "boolq": lambda n: {"passage": f"Ice {n} is cold.", "question": f"is ice {n} cold", "idx": n, "label": n % 2},
    "hellaswag": lambda n: {"activity_label": "Tea", "ctx_a": f"A man boils {n} cups.", "ctx_b": "he THEN",
                            "endings": ["drinks [x] it.", "sings a long song", "leaves", f"sells {n}"],
                            "label": str(n % 4)},
    "gsm8k": lambda n: {"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"},
}  # fmt: skip
GENERATION = {
    "task": "sums",
    "output_type": "generate_until",
    "training_split": "train",
    "test_split": "validation",
    "fewshot_split": "validation",
    "num_fewshot": 1,
    "doc_to_text": "{{a}} and {{b}}",
    "doc_to_target": "{{a + b}}",
    "gen_prefix": "The sum:",
    "target_delimiter": "\n",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {"name": "letter",
         "filter": [{"function": "regex", "regex_pattern": "([a-zA-Z])"}, {"function": "take_first"}]},
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
}  # fmt: skip
OWN_ROWS = {"colours": colour_row, "sums": lambda n: {"a": n, "b": 2 * n}}
OWN = {"colours": COLOURS, "sums": GENERATION}
CASES = [*ROWS, *OWN]
# The splits from which lm-eval draws the few-shot examples in its own way.
FEW_SHOT = {
    "no split is named": {"fewshot_split": None},
    "none, and a test split": {"fewshot_split": None, "validation_split": None, "test_split": "validation"},
    "the evaluated test split": {"fewshot_split": "validation", "validation_split": None, "test_split": "validation"},
    "the first ones": {"fewshot_config": {"sampler": "first_n"}},
    "given ones": {
        "fewshot_split": None,
        "fewshot_config": {"samples": [{"thing": f"leaf {n}", "colours": [*"rgb"], "right": 1} for n in (1, 2, 3)]},
    },
}


def rows_of(name: str) -> dict[str, list[dict]]:
    """Return 6 training rows and 4 validation rows of a task in its original fields."""
    splits = {"train": range(10, 16), "validation": range(4)}
    return {split: [(ROWS | OWN_ROWS)[name](number) for number in numbers] for split, numbers in splits.items()}


def prepared(folder: Path, definition: str | dict, rows: dict[str, list[dict]], name: str = "mine", **keys: object):
    """Return what is prepared of lm-eval's task of a name, or of a YAML file with `definition`, over rows in files."""
    for split, part in rows.items():
        write(folder / f"{split}.jsonl", part)
    if isinstance(definition, dict):
        file = folder / "task.yaml"
        file.write_text(yaml.safe_dump(definition))
        definition = str(file)
    return load_lm_eval_examples(name, TaskData(lm_eval=definition, local=str(folder), **keys))


def stock_file(folder: Path, definition: str | dict, rows: dict[str, list[dict]]) -> Path:
    """Write a YAML file for stock lm-eval: a task file of its own or `definition`, over rows that its loader reads."""
    if isinstance(definition, str):
        test_split = "validation" if definition == "gsm8k" else None
        _, file = read_definition(definition, "here")
        content = {"include": str(FOLDER / file), "dataset_name": None, "test_split": test_split}
    else:
        content = definition
    files = {split: str(write(folder / f"stock/{split}.jsonl", part)) for split, part in rows.items()}
    content = content | {"task": "stock", "dataset_path": "json"}
    content |= {"dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")}}
    path = folder / "stock.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def stock(lm: HFLM, file: Path) -> tuple[dict, list[dict]]:
    """Return stock lm-eval's results and samples, in the order of the rows, then of the filters."""
    disable_progress_bars()
    tasks = TaskManager(include_defaults=False)
    results = simple_evaluate(lm, tasks=[str(file)], task_manager=tasks, log_samples=True, bootstrap_iters=BOOTSTRAP)
    samples = sorted(results["samples"]["stock"], key=lambda sample: sample["doc_id"])
    return results["results"]["stock"], samples


def assert_same_as_stock(model32, folder: Path, definition: str | dict, rows: dict[str, list[dict]]) -> dict:
    """Compare everything with stock lm-eval, row by row. Return our evaluation."""
    model, tokenizer = model32
    examples = prepared(folder, definition, rows)
    task, lm = examples.task, HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    theirs, samples = stock(lm, stock_file(folder, definition, rows))
    metrics, ours, outcomes = run_harness(lm, task, examples.rows)
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    samples = [sample for sample in samples if sample["filter"] == filters[0]]
    assert len(ours) == len(samples) == len(rows["validation"])
    for mine, their in zip(ours, samples, strict=True):
        for key in ("arguments", "target", "resps", "filtered_resps", task.metric):
            assert mine[key] == their[key], key
    assert outcomes == [sample[task.metric] for sample in ours]
    renamed = {}
    for key, value in theirs.items():
        name, _, filter_name = key.partition(",")
        renamed[name if filter_name == filters[0] else f"{name}_{filter_name}"] = value
    assert metrics == {name: renamed[name] for name in metrics}
    assert set(metrics) >= {task.metric, task.headline.standard_error}
    record = evaluate(model, tokenizer, task, examples.rows, batch_size=3)
    # Sharing the passes over the contexts rounds otherwise, by 1e-5 nats.
    assert record["outcomes"] == pytest.approx([sample[task.metric] for sample in samples], abs=1e-5)
    assert record["metrics"] == pytest.approx({name: metrics[name] for name in record["metrics"]}, abs=1e-5)
    if task.choices:
        logs = [[log for log, _ in sample["filtered_resps"]] for sample in samples]
        np.testing.assert_allclose(record["log_likelihoods"], logs, rtol=0, atol=1e-4)
    else:
        assert record["generations"] == [sample["resps"][0][0] for sample in samples]
        assert record["predictions"] == [sample["filtered_resps"][0] for sample in samples]
    return record


@pytest.mark.parametrize("name", CASES)
def test_an_evaluation_is_stock_lm_eval_s_row_by_row(model32, tmp_path, name):
    record = assert_same_as_stock(model32, tmp_path, OWN.get(name, name), rows_of(name))
    assert record["examples"] == 4
    assert record["few_shot"] == {"gsm8k": 5, "colours": 2, "sums": 1}.get(name, 0)
    if name == "winogrande":
        row = prepared(tmp_path, name, rows_of(name)).rows["validation"][1]
        assert row["prompt"] == "The 1 cups did not fit, so the very large box"
        assert (row["answer"], row["label"]) == (" stayed out.", 1)
        assert row["choices"] == [request[0] for request in row["requests"]]
    if name == "sums":
        # Tiny random models generate letters, so the first of two filters leaves something of every answer.
        assert all(len(prediction) == 1 for prediction in record["predictions"])
        assert {"exact_match", "exact_match_whole", "exact_match_stderr_whole"} <= record["metrics"].keys()


@pytest.mark.parametrize("case", FEW_SHOT)
def test_worked_examples_are_those_that_lm_eval_draws(model32, tmp_path, case):
    definition = {key: value for key, value in (COLOURS | FEW_SHOT[case]).items() if value is not None}
    assert_same_as_stock(model32, tmp_path, definition, rows_of("colours"))


@pytest.mark.parametrize("name", CASES)
def test_training_reads_what_the_evaluation_scores(model32, tmp_path, name):
    model, tokenizer = model32
    rows = rows_of(name)
    examples = prepared(tmp_path, OWN.get(name, name), rows)
    task = replace(examples.task, few_shot=0, definition={**examples.task.definition, "num_fewshot": 0})
    task.definition["yaml"] = {**task.definition["yaml"], "num_fewshot": 0}
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    _, samples, _ = run_harness(lm, task, examples.rows)
    encoded = encode(examples.rows["validation"], task, tokenizer, 8192)
    for row, example, sample in zip(examples.rows["validation"], encoded, samples, strict=True):
        if task.choices:
            context, continuation = lm._encode_pair(*sample["arguments"][row["label"]])
        else:
            context = lm.tok_encode(sample["arguments"][0][0])
            continuation = [*lm.tok_encode(row["answer"]), tokenizer.eos_token_id]
        assert (example.ids[: example.answer_start], example.ids[example.answer_start :]) == (context, continuation)


def test_the_answer_of_the_configuration_is_learned(tmp_path):
    rows = {split: [{**row, "steps": f"{row['a']}.."} for row in part] for split, part in rows_of("sums").items()}
    definition = {**GENERATION, "doc_to_target": ["1", "2"], "num_fewshot": 0}
    with pytest.raises(InputError, match=r"^tasks\.mine: .* several right answers.*; set tasks\.mine\.answer"):
        prepared(tmp_path, definition, rows)
    for answer, text in (("steps", "1.."), ("{{steps}} so {{a + b}}", "1.. so 3")):
        row = prepared(tmp_path, definition, rows, answer=answer).rows["validation"][1]
        assert (row["prompt"], row["answer"]) == ("1 and 2\nThe sum:", f" {text}")


def test_the_headline_may_be_any_mean_of_fractions(model32, tmp_path):
    rows = rows_of("sums")
    examples = prepared(tmp_path, GENERATION, rows, metric="exact_match_whole")
    record = evaluate(*model32, examples.task, examples.rows, batch_size=4)
    assert record["metric"] == "exact_match_whole"
    assert record["predictions"] == record["generations"]
    assert record["scored_by"] == "lm-eval"
    with pytest.raises(InputError, match="metric is acc, .*: exact_match, exact_match_whole;"):
        prepared(tmp_path, GENERATION, rows, metric="acc")


def test_f1_of_two_answers_is_reported_beside_the_headline(model32, tmp_path):
    """lm-eval's mrpc has acc and f1."""
    rows = [{"sentence1": f"A {n}.", "sentence2": f"B {n}.", "label": n % 2, "idx": n} for n in range(6)]
    examples = prepared(tmp_path, "mrpc", {"train": rows, "validation": rows})
    record = evaluate(*model32, examples.task, examples.rows, batch_size=4)
    assert record["metric"] == "acc"
    assert {"acc", "acc_stderr", "f1", "f1_stderr"} == record["metrics"].keys()
    never = [{**row, "label": 0} for row in rows]
    examples = prepared(tmp_path, "mrpc", {"train": never, "validation": never})
    assert "f1" not in evaluate(*model32, examples.task, examples.rows, batch_size=4)["metrics"]


def test_a_function_of_lm_eval_may_score_the_rows(model32, tmp_path):
    """truthfulqa_mc2 gives each row the probability of its right answers."""
    rows = [
        {"question": f"Is {n} a number?", "mc2_targets": {"choices": ["yes", "no", f"{n}"], "labels": [1, 0, 0]}}
        for n in range(4)
    ]
    record = assert_same_as_stock(model32, tmp_path, "truthfulqa_mc2", {"train": rows, "validation": rows})
    assert record["scored_by"] == "lm-eval"
    assert all(0 < outcome < 1 for outcome in record["outcomes"])
    assert record["standard_error"] == pytest.approx(np.std(record["outcomes"], ddof=1) / 2)


def test_rows_from_the_hub_are_those_that_lm_eval_evaluates(hub):
    splits = {
        split: [ROWS["arc_easy"](number) for number in range(start, start + 4)]
        for start, split in ((0, "train"), (10, "validation"), (20, "test"))
    }
    publish(hub, "allenai/ai2_arc", splits, "ARC-Easy")
    examples = load_lm_eval_examples("easy", TaskData(lm_eval="arc_easy"))
    docs = {split: [row["doc"] for row in rows] for split, rows in examples.rows.items()}
    assert docs == {"train": splits["train"], "validation": splits["test"]}
    assert examples.source == {"hub": "allenai/ai2_arc/ARC-Easy", "revision": COMMIT}
    assert examples.task.definition["split"] == "test"
    pinned = f"allenai/ai2_arc/ARC-Easy@{COMMIT}"
    assert load_lm_eval_examples("easy", TaskData(lm_eval="arc_easy", hub=pinned)).rows == examples.rows


def test_a_task_without_training_rows_is_only_a_probe(hub):
    rows = [{"question": f"Which {n}?", "subject": "a", "choices": [*"wxyz"], "answer": n % 4} for n in range(4)]
    dev = [{**row, "question": f"dev {row['question']}"} for row in rows]
    publish(hub, "cais/mmlu", {"test": rows, "dev": dev}, "anatomy")
    flags = {"task": "anatomy", "lm_eval": "mmlu_anatomy", "hub": f"cais/mmlu/anatomy@{COMMIT}", "output_dir": "data"}
    code, said = call_script("prepare_task.py", **flags)
    assert code == 2 and "error: task 'anatomy' has no training rows" in said
    succeed("prepare_task.py", **flags, only_probe=True)
    task = find_task(Path("data"), "anatomy")
    prompts = [row["prompt"] for row in read_splits(Path("data"), task)[0]["train"]]
    assert all("dev Which" in prompt for prompt in prompts) and len(prompts) == 4


def test_without_a_name_worked_examples_come_from_the_first_split_that_lm_eval_finds(model32, hub):
    definition = {key: value for key, value in COLOURS.items() if key not in ("fewshot_split", "training_split")}
    definition |= {"test_split": "test", "dataset_path": "org/colours"}
    splits = {"validation": rows_of("colours")["train"], "test": rows_of("colours")["validation"]}
    publish(hub, "org/colours", splits)
    Path("own.yaml").write_text(yaml.safe_dump(definition))
    examples = load_lm_eval_examples("mine", TaskData(lm_eval="own.yaml"))
    lm = HFLM(pretrained=model32[0], tokenizer=model32[1], batch_size=3)
    _, theirs = stock(lm, stock_file(hub, definition, splits))
    _, ours, _ = run_harness(lm, examples.task, examples.rows)
    assert [sample["arguments"] for sample in ours] == [sample["arguments"] for sample in theirs]
    # With one split alone, a question could stand before itself.
    del definition["validation_split"]
    Path("own.yaml").write_text(yaml.safe_dump(definition))
    with pytest.raises(InputError, match="few-shot examples come from the evaluated split test"):
        load_lm_eval_examples("mine", TaskData(lm_eval="own.yaml"))


def test_a_changed_rendering_is_refused(model32, tmp_path):
    examples = prepared(tmp_path, COLOURS, rows_of("colours"))
    changed = {**examples.task.definition, "yaml": {**examples.task.definition["yaml"], "doc_to_text": "{{thing}}"}}
    with pytest.raises(InputError, match=r"^mine: lm-eval .* validation example 1 another text"):
        evaluate(*model32, replace(examples.task, definition=changed), examples.rows, batch_size=4)
