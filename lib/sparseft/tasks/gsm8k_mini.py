"""GSM8K in small: one sum or one difference, one line of working, then the result."""

import itertools
import random
from dataclasses import replace

from sparseft.tasks.gsm8k import GSM8K
from sparseft.tasks.task import Row
from sparseft.tasks.words import NAMES, THINGS, check_number, share

NAME = "gsm8k_mini"


def generate(split: str, number: int, seed: int) -> list[Row]:
    """`number` distinct rows of `split`; sums and differences equally often, up to one."""
    problems = list(itertools.product(share(NAMES, split), share(THINGS, split), _pairs(split)))
    check_number(NAME, split, number, len(problems))
    rng = random.Random(f"{NAME}-{split}-{seed}")
    signs = [index % 2 for index in range(number)]
    rng.shuffle(signs)
    return [_row(*problem, adds=bool(sign)) for problem, sign in zip(rng.sample(problems, number), signs, strict=True)]


def _pairs(split: str) -> list[tuple[int, int]]:
    """Numbers a > b up to 12; no pair is in both splits: validation asks for sums never seen in training."""
    pairs = itertools.combinations(range(1, 13), 2)
    return [(a, b) for b, a in pairs if ((a + 2 * b) % 3 == 0) == (split == "validation")]


def _row(name: str, thing: str, pair: tuple[int, int], adds: bool) -> Row:
    a, b = pair
    verb, sign, result = ("buys", "+", a + b) if adds else ("sells", "-", a - b)
    things = thing + ("es" if thing.endswith(("s", "x", "ch", "sh")) else "s")
    question = f"{name} has {a} {things} and {verb} {b}. How many {things} does {name} have now?"
    return {"question": question, "answer": f"{a} {sign} {b} = {result}\n#### {result}"}


SCHEDULE = {"steps": 40, "learning_rate": 0.001}
GSM8K_MINI = replace(
    GSM8K, name=NAME, hub=None, generate=generate, max_new_tokens=24, few_shot=0, suggested_training=SCHEDULE
)
