"""Define GSM8K in small: one sum or one difference, one line of working, then the result."""

import itertools
import random
from dataclasses import replace

from sparseft.tasks.gsm8k import GSM8K
from sparseft.tasks.task import Lengths, Row
from sparseft.tasks.words import NAMES, THINGS, check_number, words_of_split

NAME = "gsm8k_mini"


def generate(split: str, number: int, seed: int) -> list[Row]:
    """Return `number` distinct rows of a split, with sums and differences equally often (one more difference if odd)."""
    names, things = words_of_split(NAMES, split), words_of_split(THINGS, split)
    # Pairs 12 >= a > b >= 1. No pair is in both splits, so that validation asks for new sums.
    pairs = [(a, b) for b, a in itertools.combinations(range(1, 13), 2)]
    own_pairs = [(a, b) for a, b in pairs if ((a + 2 * b) % 3 == 0) == (split == "validation")]
    problems = list(itertools.product(names, things, own_pairs))
    check_number(NAME, split, number, len(problems))
    rng = random.Random(f"{NAME}-{split}-{seed}")
    is_sum = [bool(index % 2) for index in range(number)]
    rng.shuffle(is_sum)
    chosen = rng.sample(problems, number)
    return [_row(*problem, adds=adds) for problem, adds in zip(chosen, is_sum, strict=True)]


def _row(name: str, thing: str, pair: tuple[int, int], adds: bool) -> Row:
    """Return the row that adds or subtracts a pair of numbers."""
    a, b = pair
    verb, sign, result = ("buys", "+", a + b) if adds else ("sells", "-", a - b)
    things = thing + ("es" if thing.endswith(("s", "x", "ch", "sh")) else "s")
    question = f"{name} has {a} {things} and {verb} {b}. How many {things} does {name} have now?"
    return {"question": question, "answer": f"{a} {sign} {b} = {result}\n#### {result}"}


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
