"""Our evaluation beside stock lm-eval: its own task files over the same rows, run by its own model class."""

from pathlib import Path

import lm_eval
import numpy as np
import pytest
from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.dummy import DummyLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.task import SPLITS
from sparseft.data.rows import read_rows as read_examples
from sparseft.evaluation.evaluate import evaluate
from sparseft.evaluation.harness import task_definition

pytestmark = pytest.mark.long

HARNESS = Path(lm_eval.__file__).parent / "tasks"
DATA = Path(__file__).parents[2] / "shared" / "data"
YAMLS = {"boolq": "super_glue/boolq/default.yaml", "hellaswag": "hellaswag/hellaswag.yaml", "gsm8k": "gsm8k/gsm8k.yaml"}

# Answers from which the filters take different things.
AWKWARD = [
    " It costs $1,000.",
    " So it is #### 1,000",
    " #### 1,234.",
    " I do not know.",
    "",
    " #### 5\n#### 6",
    " 3 and 4, so 7",
    " #### -12",
    " #### 3.50",
    " #### $40",
    " ####7",
    " 2 + 3 = <<2+3=5>>5\n#### 5",
]


class Answers(LM):
    """A model that gives prepared answers."""

    loglikelihood = loglikelihood_rolling = None

    def generate_until(self, requests):
        return [AWKWARD[request.doc_id] for request in requests]


# Rows in the original fields: those of ROWS with some that the project generates, and rows of the data sets in the
# developers' folder.
SOURCES = {"generated": 24, "real": 200}
EITHER = ["generated", pytest.param("real", marks=pytest.mark.slow)]
# Blanks, marks, templates and labels in all their forms.
ROWS = {
    "boolq": [{"passage": "Ice is cold.\n{{x}}", "question": "is ice cold", "answer": True}],
    "hellaswag": [
        {"activity_label": "Tea", "ctx_a": "A  man [step] boils   water.", "ctx_b": "he THEN", "label": "1",
         "endings": [" drinks [title] it.", "a  b   c", "leaves", "[x]ends"]},
        {"activity_label": "Tea", "ctx_a": "No second part.", "ctx_b": "", "label": 0, "endings": ["a", "b", "c", "d"]},
    ],
    "gsm8k": [{"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}],
}  # fmt: skip


def rows_of(name: str, source: str, number: int | None = None) -> dict[str, list[dict]]:
    if source == "generated":
        rows = {split: BY_NAME[f"{name}_mini"].generate(split, 24, 0) for split in SPLITS}
        rows["validation"] = ROWS[name] + rows["validation"]
    elif (DATA / name).exists():
        rows = {split: read_examples(DATA / name / f"{split}.jsonl", BY_NAME[name]) for split in SPLITS}
    else:
        pytest.skip("needs the developers' folder ../shared")
    return {**rows, "validation": rows["validation"][: number or SOURCES[source]]}


def stock_definition(name: str, rows: dict[str, list[dict]]) -> dict:
    """lm-eval's task file with nothing replaced but where its rows come from, in the hub's fields and splits."""
    definition = load_yaml(HARNESS / YAMLS[name])
    for key in ("dataset_path", "dataset_name", "tag"):
        definition.pop(key)
    fields = {
        "boolq": lambda row: {**_only(row, "passage", "question"), "label": int(row["answer"])},
        "hellaswag": lambda row: {**_only(row, "activity_label", "ctx_a", "ctx_b", "endings"),
                                  "label": str(row["label"])},
        "gsm8k": lambda row: _only(row, "question", "answer"),
    }[name]  # fmt: skip
    names = {"train": "train", "validation": "test" if name == "gsm8k" else "validation"}
    data = {names[split]: Dataset.from_list([fields(row) for row in part]) for split, part in rows.items()}
    return definition | {"custom_dataset": lambda **_: data}


def _only(row: dict, *names: str) -> dict:
    return {name: row[name] for name in names}


def samples(lm: LM, definition: dict) -> list[dict]:
    """What lm-eval asked, heard and scored, in the order of the rows, then of the filters."""
    tasks = TaskManager(include_defaults=False)
    found = simple_evaluate(lm, tasks=[definition], task_manager=tasks, log_samples=True, bootstrap_iters=0)
    return sorted(found["samples"][definition["task"]], key=lambda sample: (sample["doc_id"], sample["filter"]))


@pytest.mark.parametrize("source", EITHER)
@pytest.mark.parametrize("name", YAMLS)
def test_prompts_and_targets_are_stock_lm_eval_s_string_by_string(name, source):
    rows = rows_of(name, source)
    ours, theirs = (samples(DummyLM(), definition) for definition in
                    (task_definition(BY_NAME[name], rows), stock_definition(name, rows)))  # fmt: skip
    assert len(ours) == len(theirs) == SOURCES[source] * (2 if name == "gsm8k" else 1)
    for mine, stock in zip(ours, theirs, strict=True):
        assert str(mine["target"]) == str(stock["target"])
        # (prompt, choice or settings) each. A generation has settings of its own.
        asked, stock_asked = (own["arguments"][0][0] if name == "gsm8k" else own["arguments"] for own in (mine, stock))
        assert asked == stock_asked


@pytest.mark.parametrize("source", EITHER)
@pytest.mark.parametrize("name", ["boolq", "hellaswag"])
def test_choices_and_log_likelihoods_are_stock_lm_eval_s(model32, name, source):
    task, rows = BY_NAME[name], rows_of(name, source)
    record = evaluate(*model32, task, rows, batch_size=16)
    model, tokenizer = model32
    theirs = samples(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16), stock_definition(name, rows))
    logs = [[log for log, _ in sample["filtered_resps"]] for sample in theirs]
    assert record["log_likelihoods"] == logs
    assert record["outcomes"] == [sample[task.metric] for sample in theirs]
    lengths = [[len(text) if name == "hellaswag" else 1 for text in task.choices(row)] for row in rows["validation"]]
    assert record["predictions"] == [int(np.argmax(np.divide(*pair))) for pair in zip(logs, lengths, strict=True)]


@pytest.mark.parametrize("source", EITHER)
def test_generated_answers_are_stock_lm_eval_s(model32, source):
    model, tokenizer = model32
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    rows = rows_of("gsm8k", source, 4)
    ours, theirs = (samples(lm, definition) for definition in
                    (task_definition(BY_NAME["gsm8k"], rows), stock_definition("gsm8k", rows)))  # fmt: skip
    assert [sample["resps"] for sample in ours] == [sample["resps"] for sample in theirs]
    assert all(len(tokenizer.encode(sample["resps"][0][0])) > 100 for sample in ours)  # to the limit of 256, or nearly


@pytest.mark.parametrize("reference", ["1000", "1,234", "-12", "3.50", "5"])
def test_answers_are_extracted_as_stock_lm_eval_extracts_them(reference):
    row = {"question": "How much?", "answer": f"So much.\n#### {reference}"}
    rows = {"train": [row] * 6, "validation": [row] * len(AWKWARD)}
    ours, theirs = (samples(Answers(), definition) for definition in
                    (task_definition(BY_NAME["gsm8k"], rows), stock_definition("gsm8k", rows)))  # fmt: skip
    assert {sample["exact_match"] for sample in ours} == {0, 1}
    for key in ("filter", "filtered_resps", "exact_match"):
        assert [sample[key] for sample in ours] == [sample[key] for sample in theirs]
