"""GSM8K: a word problem, its worked solution, and the result after "#### " (Cobbe et al. 2021, arXiv:2110.14168).

Prompt and answer are those of lm-eval's task `gsm8k` 3.0 (gsm8k/gsm8k.yaml).
"""

from sparseft.tasks.extraction import exact_match, strict_match
from sparseft.tasks.task import Row, Task


def prompt(row: Row) -> str:
    """The bare question; worked examples are put before it by whoever asks."""
    return f"Question: {row['question']}\nAnswer:"


def problem(row: Row) -> str | None:
    """Return what is wrong with a row, or None: without a number after "#### " every answer would count as wrong."""
    if not row["question"].strip():
        return "field 'question' is empty"
    result = strict_match(row["answer"])
    if not any(map(str.isdigit, result)) or not exact_match(result, row["answer"]):
        return "field 'answer' does not end in '#### NUMBER', the part that is scored"
    return None


GSM8K = Task(
    name="gsm8k",
    fields={"question": str, "answer": str},
    prompt=prompt,
    answer=lambda row: row["answer"],
    choices=None,
    label=None,
    metric="exact_match",
    hub="openai/gsm8k/main@e53f048856ff4f594e959d75785d2c2d37b678ee",
    max_new_tokens=256,  # lm-eval's default
    few_shot=5,
    problem=problem,
)
