"""Every task is complete. The prompts of the real tasks are those of the installed lm-eval, character by character."""

from pathlib import Path

import pytest
from sparseft.tasks import BY_NAME, TASKS

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval, the peer, is not installed")
from lm_eval.tasks._yaml_loader import load_yaml  # noqa: E402
from lm_eval.utils import apply_template  # noqa: E402

HARNESS = Path(lm_eval.__file__).parent / "tasks"
YAMLS = {"boolq": "super_glue/boolq/default.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "gsm8k": "gsm8k/gsm8k.yaml"}
ROWS = {
    "boolq": [{"passage": "Ice is cold.\n{{x}}", "question": "is ice cold", "answer": True}],
    "hellaswag": [
        {"activity_label": "Tea", "ctx_a": "A  man [step] boils   water.", "ctx_b": "he THEN", "ctx": "", "label": "1",
         "endings": [" drinks [title] it.", "a  b   c", "", "[x]ends"]},
        {"activity_label": "Tea", "ctx_a": "No second part.", "ctx_b": "", "ctx": "", "label": 0,
         "endings": ["a", "b", "c", "d"]},
    ],
    "gsm8k": [{"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}],
}  # fmt: skip


def peer(name: str, rows: list[dict]) -> tuple[list[str], list[dict], dict]:
    """Return lm-eval's prompts, its processed rows and its configuration."""
    config = load_yaml(HARNESS / YAMLS[name])
    if name == "hellaswag":
        datasets = pytest.importorskip("datasets", reason="datasets, which lm-eval's hellaswag needs, is not installed")
        from lm_eval.tasks.hellaswag.utils import process_docs

        columns = ("activity_label", "ctx_a", "ctx_b", "endings")
        plain = [{**{key: row[key] for key in columns}, "label": str(row["label"])} for row in rows]
        rows = list(process_docs(datasets.Dataset.from_list(plain)))
    return [apply_template(config["doc_to_text"], row) for row in rows], rows, config


def assert_same_as_lm_eval(name: str, rows: list[dict]) -> None:
    task = BY_NAME[name]
    prompts, docs, config = peer(name, rows)
    assert [task.prompt(row) for row in rows] == prompts
    assert config.get("target_delimiter", " ") == " "
    if name == "boolq":
        assert task.choices(rows[0]) == config["doc_to_choice"]
        assert all(task.answer(row) == config["doc_to_choice"][row["answer"]] for row in rows)
    elif name == "hellaswag":
        assert [task.choices(row) for row in rows] == [doc["choices"] for doc in docs]
        assert [task.answer(row) for row in rows] == [doc["choices"][doc["gold"]] for doc in docs]
    else:
        assert [task.answer(row) for row in rows] == [apply_template(config["doc_to_target"], row) for row in rows]
        assert task.few_shot == config["num_fewshot"]


@pytest.mark.parametrize("name", YAMLS)
def test_prompts_are_lm_evals_on_awkward_rows(name):
    assert_same_as_lm_eval(name, ROWS[name])


def test_every_task_is_complete():
    assert list(BY_NAME) == [task.name for task in TASKS]
    for task in TASKS:
        assert task.headline in task.metrics and task.headline.standard_error
        assert (task.hub is None) == (task.generate is not None) == (task.lengths.rows == (0, 0))
        assert (
            (task.choices is None) == (task.label is None) == (task.max_new_tokens > 0) == (task.lengths.choices == 0)
        )
