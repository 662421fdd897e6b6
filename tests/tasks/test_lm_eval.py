"""A task is made from its definition without lm-eval, and its rows are checked when they are read."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
from sparseft.data.rows import checked_row
from sparseft.errors import InputError
from sparseft.tasks.lm_eval import task_of

DEFINITION = {
    "kind": "lm_eval",
    "output_type": "multiple_choice",
    "metric": "acc",
    "metrics": [{"name": "acc", "standard_error": "acc_stderr", "metric": "acc", "filter": "none"}],
    "scored_by": "log-likelihoods",
    "classes": [],
    "num_fewshot": 2,
    "max_new_tokens": 0,
    "trainable": True,
}
ROW = {
    "doc": {},
    "prompt": "Q:",
    "answer": " bb",
    "requests": [["Q:", " a"], ["Q:", " bb"]],
    "choices": ["a", "bb"],
    "label": 1,
}


@pytest.mark.parametrize(("change", "problem"), [
    ({}, None),
    ({"answer": "\n"}, "'answer' is empty"),
    ({"requests": []}, "fewer than two"),
    ({"doc": "x"}, "'doc' has the wrong type"),
])  # fmt: skip
def test_a_damaged_row_is_refused(change, problem):
    with pytest.raises(InputError, match=f"^here: .*{problem}") if problem else nullcontext():
        checked_row(ROW | change, task_of("mine", DEFINITION), "here", "")


@pytest.mark.process
def test_reading_a_prepared_task_imports_neither_lm_eval_nor_torch():
    code = "import sys, sparseft.data.prepared; print(*{'lm_eval', 'torch', 'datasets'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
