"""GSM8K: a word problem, its worked solution, and the result after "#### " (Cobbe et al. 2021, arXiv:2110.14168).

Prompt and answer are those of lm-eval's task `gsm8k` 3.0 (gsm8k/gsm8k.yaml).
"""

from sparseft.tasks.task import Row, Task


def prompt(row: Row) -> str:
    """The bare question; worked examples are put before it by whoever asks."""
    return f"Question: {row['question']}\nAnswer:"


GSM8K = Task(
    name="gsm8k",
    fields={"question": str, "answer": str},
    prompt=prompt,
    answer=lambda row: row["answer"],
    choices=None,
    label=None,
    metric="exact_match",
    chance=0.0,
    hub="openai/gsm8k/main@e53f048856ff4f594e959d75785d2c2d37b678ee",
    max_new_tokens=256,  # lm-eval's default
    few_shot=5,
)
