"""HellaSwag in small: the ending that speaks of the thing the context spoke of.

The four endings are all pairs of two qualities and two things: each is right in some context, all share
their words, and only the context tells which.
"""

import itertools
import random
from dataclasses import replace

from sparseft.tasks.hellaswag import HELLASWAG
from sparseft.tasks.task import Row
from sparseft.tasks.words import NAMES, QUALITIES, THINGS, check_number, share

NAME = "hellaswag_mini"
SCENES = [  # activity_label, ctx_a, ctx_b
    ("Shopping", "{name} buys a {quality} {thing}.", "the children like"),
    ("Moving house", "{name} packs a {quality} {thing}.", "a friend carries"),
    ("Lost and found", "{name} loses a {quality} {thing}.", "the driver finds"),
    ("Giving presents", "{name} wraps a {quality} {thing}.", "a friend receives"),
]


def generate(split: str, number: int, seed: int) -> list[Row]:
    """`number` distinct rows of `split`; each of the four labels equally often, up to one."""
    names, qualities, things = share(NAMES, split), share(QUALITIES, split), share(THINGS, split)
    facts = list(itertools.product(SCENES, names, qualities, things))
    check_number(NAME, split, number, len(facts))
    rng = random.Random(f"{NAME}-{split}-{seed}")
    labels = [index % 4 for index in range(number)]
    rng.shuffle(labels)
    rows = []
    for (scene, name, quality, thing), label in zip(rng.sample(facts, number), labels, strict=True):
        other_quality = rng.choice([word for word in qualities if word != quality])
        other_thing = rng.choice([word for word in things if word != thing])
        right, *wrong = [f"the {q} {t}." for q in (quality, other_quality) for t in (thing, other_thing)]
        rng.shuffle(wrong)
        endings = [*wrong[:label], right, *wrong[label:]]
        rows.append(_row(scene, {"name": name, "quality": quality, "thing": thing}, endings, label))
    return rows


def _row(scene: tuple[str, str, str], words: dict[str, str], endings: list[str], label: int) -> Row:
    activity, ctx_a, ctx_b = scene
    passage = ctx_a.format(**words)
    context = {"ctx_a": passage, "ctx_b": ctx_b, "ctx": f"{passage} {ctx_b}"}
    return {"passage": passage, "activity_label": activity, **context, "endings": endings, "label": label}


SCHEDULE = {"steps": 20, "learning_rate": 0.003, "batch_size": 4, "micro_batch_size": 4}
HELLASWAG_MINI = replace(HELLASWAG, name=NAME, hub=None, generate=generate, suggested_training=SCHEDULE)
