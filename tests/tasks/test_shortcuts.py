"""No classifier that ignores the context does better than chance on the mini tasks."""

from collections import Counter

import pytest
from sparseft.tasks import BY_NAME

SPLITS = ("train", "validation")
NUMBER = 960


def rows(name: str, split: str, seed: int = 0) -> list[dict]:
    return BY_NAME[name].generate(split, NUMBER, seed)


def within_chance(hits: list[float], chance: float) -> bool:
    """Return whether the share of hits is at most four standard errors from `chance`."""
    return abs(sum(hits) / len(hits) - chance) <= 4 * (chance * (1 - chance) / len(hits)) ** 0.5


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("pick", [min, max])
def test_the_shortest_or_longest_ending_is_no_better_than_chance(split, pick):
    hits = []
    for row in rows("hellaswag_mini", split):
        lengths = [len(ending) for ending in row["endings"]]
        tied = [index for index, length in enumerate(lengths) if length == pick(lengths)]
        hits.append((row["label"] in tied) / len(tied))
    assert within_chance(hits, 0.25)


@pytest.mark.parametrize("split", SPLITS)
def test_no_threshold_on_the_prompt_length_tells_yes_from_no(split):
    task = BY_NAME["boolq_mini"]
    lengths = [(len(task.prompt(row)), row["answer"]) for row in rows("boolq_mini", split)]
    for threshold in {length for length, _ in lengths}:
        assert within_chance([(length >= threshold) == answer for length, answer in lengths], 0.5)


def test_yes_and_no_rows_are_equally_long():
    assert all(
        len(row["passage"].split()[-1].rstrip(".")) == len(row["question"].split()[-1])
        for split in SPLITS
        for row in rows("boolq_mini", split)
    )


@pytest.mark.parametrize("split", SPLITS)
def test_the_position_of_a_row_or_an_ending_tells_nothing(split):
    for position in range(4):
        hits = [row["label"] == position for row in rows("hellaswag_mini", split)]
        assert sum(hits) == len(hits) / 4
    for name, period in (("hellaswag_mini", 4), ("boolq_mini", 2)):
        labels = [BY_NAME[name].label(row) for row in rows(name, split)]
        assert within_chance([label == index % period for index, label in enumerate(labels)], 1 / period)


def test_each_ending_of_a_row_is_right_in_some_context():
    for row in rows("hellaswag_mini", "train"):
        pairs = {tuple(ending.split()[1:]) for ending in row["endings"]}
        qualities, things = ({pair[index] for pair in pairs} for index in (0, 1))
        assert len(pairs) == 4 and len(qualities) == len(things) == 2
        quality, thing = row["endings"][row["label"]].split()[1:]
        assert f" {quality} {thing}" in row["ctx"]


def bag_of_words(examples: list[tuple[str, bool]]) -> dict[str, float]:
    """Return how much more often each word stands in right texts than in wrong ones (naive Bayes with counts only)."""
    scores = Counter()
    for text, right in examples:
        scores.update(dict.fromkeys(text.split(), 1 if right else -1))
    return scores


def test_endings_without_their_context_are_no_better_than_chance():
    examples = [
        (ending, index == row["label"])
        for row in rows("hellaswag_mini", "train")
        for index, ending in enumerate(row["endings"])
    ]
    scores = bag_of_words(examples)
    for split in SPLITS:
        # Another seed of the training split: the same words, new rows. That is the harder case for the task.
        hits = []
        for row in rows("hellaswag_mini", split, seed=5):
            totals = [sum(scores[word] for word in ending.split()) for ending in row["endings"]]
            tied = [index for index, total in enumerate(totals) if total == max(totals)]
            hits.append((row["label"] in tied) / len(tied))
        assert within_chance(hits, 0.25)


def test_questions_without_their_passage_are_no_better_than_chance():
    scores = bag_of_words([(row["question"], row["answer"]) for row in rows("boolq_mini", "train")])
    for split in SPLITS:
        hits = [
            (sum(scores[word] for word in row["question"].split()) > 0) == row["answer"]
            for row in rows("boolq_mini", split, seed=5)
        ]
        assert within_chance(hits, 0.5)
