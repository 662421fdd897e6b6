"""BoolQ in small: the passage names one thing, the question names the same or another.

The other thing has as many letters as the first, so that yes and no rows are equally long; which thing is
asked about says nothing, for every thing is asked about with either answer.
"""

import itertools
import random
from dataclasses import replace

from sparseft.tasks.boolq import BOOLQ
from sparseft.tasks.task import Row
from sparseft.tasks.words import NAMES, THINGS, check_number, share

NAME = "boolq_mini"
VERBS = [  # in the passage, in the question
    ("{name} has a {thing}.", "does {name} have a {asked}"),
    ("{name} needs a {thing}.", "does {name} need a {asked}"),
    ("{name} found a {thing}.", "did {name} find a {asked}"),
    ("{name} bought a {thing}.", "did {name} buy a {asked}"),
]


def generate(split: str, number: int, seed: int) -> list[Row]:
    """`number` distinct rows of `split`; yes and no equally often, up to one."""
    things = share(THINGS, split)
    others = {thing: [other for other in things if len(other) == len(thing) and other != thing] for thing in things}
    facts = list(itertools.product(VERBS, share(NAMES, split), [thing for thing in things if others[thing]]))
    check_number(NAME, split, number, len(facts))
    rng = random.Random(f"{NAME}-{split}-{seed}")
    answers = [bool(index % 2) for index in range(number)]
    rng.shuffle(answers)
    rows = []
    for ((passage, question), name, thing), answer in zip(rng.sample(facts, number), answers, strict=True):
        words = {"name": name, "thing": thing, "asked": thing if answer else rng.choice(others[thing])}
        rows.append({"passage": passage.format(**words), "question": question.format(**words), "answer": answer})
    return rows


SCHEDULE = {"steps": 24, "learning_rate": 0.001}
BOOLQ_MINI = replace(BOOLQ, name=NAME, hub=None, generate=generate, suggested_training=SCHEDULE)
