"""The mini tasks are balanced, disjoint between the splits, and reproducible."""

import json
import random
import re
from collections import Counter

import pytest
from sparseft.errors import InputError
from sparseft.tasks import BY_NAME
from sparseft.tasks.words import NAMES, QUALITIES, THINGS

MINIS = ("boolq_mini", "hellaswag_mini", "gsm8k_mini")
SPLITS = ("train", "validation")
NUMBER = 960


def rows(name: str, split: str, seed: int = 0) -> list[dict]:
    return BY_NAME[name].generate(split, NUMBER, seed)


def words(name: str, split: str) -> set[str]:
    text = " ".join(json.dumps([row, BY_NAME[name].answer(row)]) for row in rows(name, split))
    return set(re.findall(r"[A-Za-z]{2,}", text))


@pytest.mark.parametrize("name", MINIS)
def test_rows_are_a_pure_function_of_split_number_and_seed(name):
    random.seed(1)
    state = random.getstate()
    assert rows(name, "train") == rows(name, "train")
    assert rows(name, "train", seed=0) != rows(name, "train", seed=1)
    assert random.getstate() == state


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("split", SPLITS)
def test_no_prompt_occurs_twice(name, split):
    prompts = [BY_NAME[name].prompt(row) for row in rows(name, split)]
    assert len(set(prompts)) == len(prompts) == NUMBER


@pytest.mark.parametrize("name", MINIS)
def test_train_and_validation_share_no_content_word(name):
    plural = re.compile(rf"^({'|'.join(THINGS)})e?s$")
    train, validation = ({plural.sub(r"\1", word) for word in words(name, split)} for split in SPLITS)
    content = set(NAMES + QUALITIES + THINGS)
    assert not train & validation & content
    assert len(train & content) > 50 and len(validation & content) > 30
    assert train - content == validation - content, "what both share is the frame of the sentences, and nothing else"


def test_no_pair_of_numbers_is_asked_in_both_splits():
    train, validation = (
        {tuple(re.findall(r"\d+", row["question"])) for row in rows("gsm8k_mini", split)} for split in SPLITS
    )
    assert len(train) > 30 and len(validation) > 15
    assert not train & validation


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
@pytest.mark.parametrize("split", SPLITS)
def test_too_many_rows_are_refused_with_the_maximum(name, split):
    generate = BY_NAME[name].generate
    with pytest.raises(InputError) as error:
        generate(split, 10**9, 0)
    maximum = int(re.search(r"1 to (\d+)$", str(error.value))[1])
    assert maximum >= 1000
    assert len({BY_NAME[name].prompt(row) for row in generate(split, maximum, 0)}) == maximum
    for number in (0, maximum + 1):
        with pytest.raises(InputError, match=rf"\b{number} .*1 to {maximum}$"):
            generate(split, number, 0)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="split 'test' .*train, validation"):
        BY_NAME["boolq_mini"].generate("test", 10, 0)


def test_results_follow_from_their_questions():
    for split in SPLITS:
        for row in rows("gsm8k_mini", split):
            a, b = map(int, re.findall(r"\d+", row["question"]))
            result = a + b if " buys " in row["question"] else a - b
            sign = "+" if result > a else "-"
            assert row["answer"] == f"{a} {sign} {b} = {result}\n#### {result}"
            assert result > 0


def test_the_first_validation_row_of_seed_0_stays_as_it_is():
    first = {name: BY_NAME[name].generate("validation", 1, 0)[0] for name in MINIS}
    assert first["boolq_mini"] == {
        "passage": "David bought a sweater.",
        "question": "did David buy a lantern",
        "answer": False,
    }
    assert first["hellaswag_mini"] == {
        "passage": "George wraps a modern watch.",
        "activity_label": "Giving presents",
        "ctx_a": "George wraps a modern watch.",
        "ctx_b": "a friend receives",
        "ctx": "George wraps a modern watch. a friend receives",
        "endings": ["the modern watch.", "the cheap map.", "the cheap watch.", "the modern map."],
        "label": 0,
    }
    assert first["gsm8k_mini"] == {
        "question": "Brian has 9 maps and sells 3. How many maps does Brian have now?",
        "answer": "9 - 3 = 6\n#### 6",
    }
