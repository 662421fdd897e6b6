"""Define GSM8K in small: one sum or one difference, one line of working, then the result."""

import itertools
from dataclasses import replace

from sparseft.axes.tasks.gsm8k import GSM8K
from sparseft.axes.tasks.task import Lengths, Row
from sparseft.axes.tasks.words import NAMES, THINGS, drawn, words_of_split

NAME = "gsm8k_mini"


def generate(split: str, number: int, seed: int) -> list[Row]:
    """Return `number` distinct rows of a split, with sums and differences equally often (one more difference if
    odd)."""
    names, things = words_of_split(NAMES, split), words_of_split(THINGS, split)
    # Pairs 12 >= a > b >= 1. No pair is in both splits, so that validation asks for new sums.
    of_validation, pairs = split == "validation", itertools.combinations(range(1, 13), 2)
    own_pairs = [(a, b) for b, a in pairs if ((a + 2 * b) % 3 == 0) == of_validation]
    problems = list(itertools.product(names, things, own_pairs))
    chosen, are_sums, _ = drawn(NAME, split, number, seed, problems, ways=2)
    rows = []
    for (name, thing, (a, b)), is_sum in zip(chosen, are_sums, strict=True):
        verb, sign, result = ("buys", "+", a + b) if is_sum else ("sells", "-", a - b)
        plural = thing + ("es" if thing.endswith(("s", "x", "ch", "sh")) else "s")
        question = f"{name} has {a} {plural} and {verb} {b}. How many {plural} does {name} have now?"
        rows.append({"question": question, "answer": f"{a} {sign} {b} = {result}\n#### {result}"})
    return rows


GSM8K_MINI = replace(
    GSM8K,
    name=NAME,
    lengths=Lengths(rows=(0, 0), mean=40, long=40, answer=12, choices=0),
    hub=None,
    generate=generate,
    max_new_tokens=24,
    few_shot=0,
    suggested_training={"steps": 40, "learning_rate": 0.001},
)
