"""Define HellaSwag in small: the right ending repeats the quality and the thing of the context.

The four endings are all pairs of two qualities and two things. Each would be right in some context, and all share their
words, so that only the context shows the right one.
"""

import itertools
from dataclasses import replace

from sparseft.axes.tasks.hellaswag import HELLASWAG
from sparseft.axes.tasks.task import Lengths, Row
from sparseft.axes.tasks.words import NAMES, QUALITIES, THINGS, drawn, words_of_split

NAME = "hellaswag_mini"
# Each scene: activity_label, ctx_a, ctx_b.
SCENES = [
    ("Shopping", "{name} buys a {quality} {thing}.", "the children like"),
    ("Moving house", "{name} packs a {quality} {thing}.", "a friend carries"),
    ("Lost and found", "{name} loses a {quality} {thing}.", "the driver finds"),
    ("Giving presents", "{name} wraps a {quality} {thing}.", "a friend receives"),
]


def generate(split: str, number: int, seed: int) -> list[Row]:
    """Return `number` distinct rows of a split. The counts of the four labels differ by at most one."""
    names, qualities, things = (words_of_split(words, split) for words in (NAMES, QUALITIES, THINGS))
    facts = list(itertools.product(SCENES, names, qualities, things))
    chosen, labels, rng = drawn(NAME, split, number, seed, facts, ways=4)
    rows = []
    for ((activity, ctx_a, ctx_b), name, quality, thing), label in zip(chosen, labels, strict=True):
        other_quality = rng.choice([word for word in qualities if word != quality])
        other_thing = rng.choice([word for word in things if word != thing])
        right, *wrong = [f"the {q} {t}." for q in (quality, other_quality) for t in (thing, other_thing)]
        rng.shuffle(wrong)
        endings = [*wrong[:label], right, *wrong[label:]]
        passage = ctx_a.format(name=name, quality=quality, thing=thing)
        rows.append(
            {
                "passage": passage,
                "activity_label": activity,
                "ctx_a": passage,
                "ctx_b": ctx_b,
                "ctx": f"{passage} {ctx_b}",
                "endings": endings,
                "label": label,
            }
        )
    return rows


HELLASWAG_MINI = replace(
    HELLASWAG,
    name=NAME,
    lengths=Lengths(rows=(0, 0), mean=19, long=22, answer=5, choices=4),
    hub=None,
    generate=generate,
    suggested_training={"steps": 20, "learning_rate": 0.003, "batch_size": 4, "micro_batch_size": 4},
)
