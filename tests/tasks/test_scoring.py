"""Scoring without lm-eval beside lm-eval's own filters and metrics."""

import random

import pytest
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter
from sparseft.tasks.boolq_mini import BOOLQ_MINI
from sparseft.tasks.metrics import (
    IGNORED,
    STRICT_MATCH,
    WIKITEXT2_SHA256,
    exact_match,
    perplexity_name,
    strict_match,
)
from sparseft.tasks.scoring import (
    chance_of,
    class_metrics,
    likeliest,
    prompt_digest,
)

PIECES = ["####", " ", "7", "1,000", "$", "-", ".", "\n", "So it is", "-3.5", "#### 12", "", "A"]


def texts(number: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randrange(9))) for _ in range(number)]


def test_answers_are_extracted_as_lm_eval_extracts_them():
    expected = [answer for (answer,) in RegexFilter(STRICT_MATCH).apply([[text] for text in texts(2000)], [])]
    assert [strict_match(text) for text in texts(2000)] == expected
    assert 100 < expected.count("[invalid]") < 1900


def test_answers_match_as_lm_eval_matches_them():
    alike = [("1000", "x #### $1,000."), ("A", "a"), ("5.", "5")]
    pairs = [*zip(texts(3000), texts(3001)[1:], strict=True), *alike]
    theirs = [exact_match_hf_evaluate([one], [other], IGNORED, ignore_case=True)["exact_match"] for one, other in pairs]
    assert [exact_match(one, other) for one, other in pairs] == [bool(match) for match in theirs]
    assert theirs[-3:] == [1, 1, 1]


def test_the_first_of_equally_likely_choices_is_taken_and_the_tie_counted():
    logs = [[-1.0, -1.0], [-3.0, -2.0, -2.0], [-1.0, -2.0]]
    predictions, ties = likeliest(logs)
    assert (predictions.tolist(), ties) == ([0, 1, 0], 2)
    predictions, ties = likeliest(logs, [[1, 2], [3, 1, 2], [1, 2]])
    assert (predictions.tolist(), ties) == ([1, 0, 0], 2)


def test_a_class_that_is_never_right_has_no_recall():
    logs = [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -2.0]]
    metrics = class_metrics([0, 0, 0], logs, ("no", "yes"))
    assert metrics["recall_no"] == pytest.approx(2 / 3)
    assert metrics["recall_yes"] is metrics["recall_yes_stderr"] is None


def test_the_digest_of_the_prompts_follows_every_text_and_their_order():
    rows = BOOLQ_MINI.generate("validation", 3, 0)
    another_answer = [*rows[:2], rows[2] | {"answer": not rows[2]["answer"]}]
    assert len({prompt_digest(BOOLQ_MINI, part) for part in (rows, rows[::-1], rows[:2], another_answer)}) == 4
    assert prompt_digest(BOOLQ_MINI, [dict(row) for row in rows]) == prompt_digest(BOOLQ_MINI, rows)


def test_chance_is_that_of_the_choices_of_each_row():
    assert (chance_of([[1, 1], [1, 1, 1, 1]]), chance_of(None)) == (0.375, 0)


def test_no_text_but_wikitext2_gives_its_name():
    assert perplexity_name(WIKITEXT2_SHA256, 2048) == "wikitext2_ppl_2048"
    assert perplexity_name("f" * 64, 20) == "local_text_ppl_20"
