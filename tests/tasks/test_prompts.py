"""Every task is complete. The prompts of the real tasks are those of the installed lm-eval, character by character."""

from pathlib import Path

import lm_eval
import pytest
from datasets import Dataset
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.hellaswag.utils import process_docs
from lm_eval.utils import apply_template
from sparseft.tasks import BY_NAME, TASKS

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


@pytest.mark.parametrize("name", YAMLS)
def test_prompts_are_lm_evals_on_awkward_rows(name):
    task, rows, config = BY_NAME[name], ROWS[name], load_yaml(HARNESS / YAMLS[name])
    docs = rows
    if name == "hellaswag":
        columns = ("activity_label", "ctx_a", "ctx_b", "endings")
        plain = [{**{key: row[key] for key in columns}, "label": str(row["label"])} for row in rows]
        docs = list(process_docs(Dataset.from_list(plain)))
    assert [task.prompt(row) for row in rows] == [apply_template(config["doc_to_text"], doc) for doc in docs]
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


def test_every_task_is_complete():
    assert list(BY_NAME) == [task.name for task in TASKS]
    for task in TASKS:
        assert task.headline in task.metrics and task.headline.standard_error
        assert (task.hub is None) == (task.generate is not None) == (task.lengths.rows == (0, 0))
        assert (
            (task.choices is None) == (task.label is None) == (task.max_new_tokens > 0) == (task.lengths.choices == 0)
        )
