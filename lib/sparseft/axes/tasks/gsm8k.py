"""Define GSM8K: a word problem, its worked solution, and the result after "#### " (Cobbe et al. 2021,
arXiv:2110.14168).

Prompt and answer are those of lm-eval's task `gsm8k` 3.0 (gsm8k/gsm8k.yaml).
"""

import re
from operator import itemgetter

from sparseft.axes.tasks.metrics import EXACT_MATCH, EXACT_MATCH_FLEXIBLE
from sparseft.axes.tasks.task import Lengths, Row, Task


def prompt(row: Row) -> str:
    """Return the question. The evaluation puts the few-shot examples before it."""
    return f"Question: {row['question']}\nAnswer:"


def problem(row: Row) -> str | None:
    """Return what is wrong with a row, or None. lm-eval takes the first number after "#### ", which must end the
    answer."""
    answer = row["answer"]
    numbers = re.findall(r"#### (-?[0-9.,]+)", answer)
    if not numbers or not any(map(str.isdigit, numbers[0])) or not answer.endswith(f"#### {numbers[0]}"):
        return "field 'answer' does not end in '#### NUMBER', the part that is scored"
    return None


GSM8K = Task(
    name="gsm8k",
    fields={"question": str, "answer": str},
    filled=("question",),
    problem=problem,
    prompt=prompt,
    answer=itemgetter("answer"),
    headline=EXACT_MATCH,
    metrics=(EXACT_MATCH, EXACT_MATCH_FLEXIBLE),
    lengths=Lengths(rows=(7473, 1319), mean=130, long=310, answer=190, choices=0),
    hub="openai/gsm8k/main@e53f048856ff4f594e959d75785d2c2d37b678ee",
    # The data set has no validation split. Papers report its test split.
    validation_split="test",
    # lm-eval's default
    max_new_tokens=256,
    few_shot=5,
)
