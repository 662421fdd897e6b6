"""Define BoolQ in small: the passage names a thing, and the question names the same thing or another one.

The other thing has as many letters, so that the length of a row says nothing about its answer. Neither does the thing
in the question, because every thing occurs with both answers.
"""

import itertools
from dataclasses import replace

from sparseft.axes.tasks.boolq import BOOLQ
from sparseft.axes.tasks.task import Lengths, Row
from sparseft.axes.tasks.words import NAMES, THINGS, drawn, words_of_split

NAME = "boolq_mini"
# Each pair: the sentence of the passage, and the question.
SENTENCES = [
    ("{name} has a {thing}.", "does {name} have a {asked_thing}"),
    ("{name} needs a {thing}.", "does {name} need a {asked_thing}"),
    ("{name} found a {thing}.", "did {name} find a {asked_thing}"),
    ("{name} bought a {thing}.", "did {name} buy a {asked_thing}"),
]


def generate(split: str, number: int, seed: int) -> list[Row]:
    """Return `number` distinct rows of a split, with yes and no equally often (one more no if the number is odd)."""
    things = words_of_split(THINGS, split)
    others = {thing: [other for other in things if len(other) == len(thing) and other != thing] for thing in things}
    names = words_of_split(NAMES, split)
    facts = list(itertools.product(SENTENCES, names, [thing for thing in things if others[thing]]))
    chosen, answers, rng = drawn(NAME, split, number, seed, facts, ways=2)
    rows = []
    for ((passage, question), name, thing), answer in zip(chosen, answers, strict=True):
        asked_thing = thing if answer else rng.choice(others[thing])
        rows.append(
            {
                "passage": passage.format(name=name, thing=thing),
                "question": question.format(name=name, asked_thing=asked_thing),
                "answer": bool(answer),
            }
        )
    return rows


BOOLQ_MINI = replace(
    BOOLQ,
    name=NAME,
    lengths=Lengths(rows=(0, 0), mean=25, long=25, answer=1, choices=2),
    hub=None,
    generate=generate,
    suggested_training={"steps": 24, "learning_rate": 0.001},
)
