"""Every task is complete. The mini tasks are balanced, disjoint between the splits, and reproducible.

What ignores the context is right by chance."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from sparseft.axes.tasks import BY_NAME, TASKS
from sparseft.axes.tasks.words import NAMES, QUALITIES, THINGS
from sparseft.common.errors import InputError

MINIS = ("boolq_mini", "hellaswag_mini", "gsm8k_mini")
SPLITS = ("train", "validation")
NUMBER = 960


def rows(name: str, split: str, seed: int = 0) -> list[dict]:
    return BY_NAME[name].generate(split, NUMBER, seed)


def words(name: str, split: str) -> set[str]:
    text = " ".join(json.dumps([row, BY_NAME[name].answer(row)]) for row in rows(name, split))
    return set(re.findall(r"[A-Za-z]{2,}", text))


@pytest.mark.parametrize("name", MINIS)
def test_train_and_validation_share_no_content_word(name):
    plural = re.compile(rf"^({'|'.join(THINGS)})e?s$")
    train, validation = ({plural.sub(r"\1", word) for word in words(name, split)} for split in SPLITS)
    content = set(NAMES + QUALITIES + THINGS)
    assert not train & validation & content
    assert len(train & content) > 50 and len(validation & content) > 30
    assert train - content == validation - content, "what both share is the frame of the sentences, and nothing else"


@pytest.mark.parametrize("number", [1, 7, 200, 480])
def test_labels_are_balanced_up_to_one(number):
    for name, ways in (("boolq_mini", 2), ("hellaswag_mini", 4)):
        task = BY_NAME[name]
        counts = Counter(task.label(row) for row in task.generate("train", number, 3))
        assert {counts[way] for way in range(ways)} <= {number // ways, -(-number // ways)}
    signs = Counter("+" in row["answer"] for row in BY_NAME["gsm8k_mini"].generate("train", number, 3))
    assert abs(signs[True] - signs[False]) <= 1


@pytest.mark.long
@pytest.mark.parametrize("name", MINIS)
def test_the_largest_number_of_rows_has_no_prompt_twice(name):
    generate = partial(BY_NAME[name].generate, "validation", seed=0)
    with pytest.raises(InputError, match="1 to") as error:
        generate(10**9)
    maximum = int(re.search(r"1 to (\d+)$", str(error.value))[1])
    assert maximum >= 1000
    assert len({BY_NAME[name].prompt(row) for row in generate(maximum)}) == maximum


# The first digits of the sha256 of 300 rows of both splits of seed 0, as json.dumps writes them.
DIGESTS = {"boolq_mini": "b7fe5239af2ec0a7", "hellaswag_mini": "bdf79e1f581859b4", "gsm8k_mini": "d55afe815e8e6efb"}


@pytest.mark.parametrize("name", MINIS)
def test_the_rows_stay_as_they_are(name):
    both = [BY_NAME[name].generate(split, 300, 0) for split in SPLITS]
    assert hashlib.sha256(json.dumps(both).encode()).hexdigest().startswith(DIGESTS[name])


def within_chance(hits: list[float], chance: float) -> bool:
    """Return whether the share of hits is at most four standard errors from `chance`."""
    return abs(sum(hits) / len(hits) - chance) <= 4 * (chance * (1 - chance) / len(hits)) ** 0.5


def bag_of_words(examples: list[tuple[str, bool]]) -> Callable[[str], int]:
    """Return how much more often the words of a text stand in right texts than in wrong ones (naive Bayes with counts
    only)."""
    scores = Counter()
    for text, right in examples:
        scores.update(dict.fromkeys(text.split(), 1 if right else -1))
    return lambda text: sum(scores[word] for word in text.split())


def expected_hit(score: Callable[[str], int], row: dict) -> float:
    """Return the chance that the ending with the largest score is right, if equal ones are drawn at random."""
    scores = [score(ending) for ending in row["endings"]]
    best = [index for index, value in enumerate(scores) if value == max(scores)]
    return (row["label"] in best) / len(best)


# Another seed of the training split has the same words in new rows. That is the harder case for the task.
@pytest.mark.parametrize("split", SPLITS)
def test_endings_without_their_context_and_questions_without_their_passage_are_no_better_than_chance(split):
    training, examples = rows("hellaswag_mini", "train"), rows("hellaswag_mini", split, seed=5)
    bag = bag_of_words([(text, n == row["label"]) for row in training for n, text in enumerate(row["endings"])])
    for score in (len, lambda ending: -len(ending), bag):
        assert within_chance([expected_hit(score, row) for row in examples], 0.25)
    prompt, examples = BY_NAME["boolq_mini"].prompt, rows("boolq_mini", split, seed=5)
    bag = bag_of_words([(row["question"], row["answer"]) for row in rows("boolq_mini", "train")])
    assert within_chance([(bag(row["question"]) > 0) == row["answer"] for row in examples], 0.5)
    for threshold in {len(prompt(row)) for row in examples}:
        assert within_chance([(len(prompt(row)) >= threshold) == row["answer"] for row in examples], 0.5)


def test_every_task_is_complete():
    assert list(BY_NAME) == [task.name for task in TASKS]
    for task in TASKS:
        assert task.headline in task.metrics and task.headline.standard_error
        assert (task.hub is None) == (task.generate is not None) == (task.lengths.rows == (0, 0))
        assert (
            (task.choices is None) == (task.label is None) == (task.max_new_tokens > 0) == (task.lengths.choices == 0)
        )
