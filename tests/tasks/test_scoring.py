"""Scoring without lm-eval beside lm-eval's own filters, metrics and bootstrap."""

import random

import numpy as np
import pytest
from lm_eval.api.metrics import bootstrap_stderr, exact_match_hf_evaluate, f1_score, mean_stderr
from lm_eval.filters.extraction import RegexFilter
from sparseft.tasks.boolq_mini import BOOLQ_MINI
from sparseft.tasks.metrics import (
    FLEXIBLE_EXTRACT,
    IGNORED,
    STRICT_MATCH,
    WIKITEXT2_SHA256,
    exact_match,
    flexible_extract,
    perplexity_name,
    strict_match,
)
from sparseft.tasks.scoring import (
    BOOTSTRAP,
    chance_of,
    choice_metrics,
    f1_standard_error,
    likeliest,
    prompt_digest,
    ties,
)

PIECES = ["####", " ", "7", "1,000", "$", "-", ".", "\n", "So it is", "-3.5", "#### 12", "", "A"]


def texts(number: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randrange(9))) for _ in range(number)]


def test_answers_are_extracted_as_lm_eval_extracts_them():
    strict, flexible = RegexFilter(STRICT_MATCH), RegexFilter(FLEXIBLE_EXTRACT, group_select=-1)
    for ours, theirs in ((strict_match, strict), (flexible_extract, flexible)):
        expected = [answer for (answer,) in theirs.apply([[text] for text in texts(2000)], [])]
        assert [ours(text) for text in texts(2000)] == expected
        assert 100 < expected.count("[invalid]") < 1900


def test_answers_match_as_lm_eval_matches_them():
    alike = [("1000", "x #### $1,000."), ("A", "a"), ("5.", "5")]
    pairs = [*zip(texts(3000), texts(3001)[1:], strict=True), *alike]
    theirs = [exact_match_hf_evaluate([one], [other], IGNORED, ignore_case=True)["exact_match"] for one, other in pairs]
    assert [exact_match(one, other) for one, other in pairs] == [bool(match) for match in theirs]
    assert theirs[-3:] == [1, 1, 1]


@pytest.mark.long
def test_the_standard_errors_are_lm_eval_s():
    draw = np.random.default_rng(0)
    labels, logs = draw.integers(0, 2, 60).tolist(), (-draw.random((60, 2))).tolist()
    said = likeliest(logs).tolist()
    metrics = choice_metrics(labels, logs, [[1, 1]] * 60, ("no", "yes"))
    pairs = list(zip(labels, said, strict=True))
    assert metrics["f1"] == pytest.approx(f1_score(pairs))
    assert f1_standard_error(labels, logs) == pytest.approx(bootstrap_stderr(f1_score, pairs, BOOTSTRAP))
    assert metrics["acc_stderr"] == pytest.approx(mean_stderr([float(a == b) for a, b in pairs]))


def test_the_first_of_equally_likely_choices_is_taken_and_the_tie_counted():
    logs = [[-1.0, -1.0], [-3.0, -2.0, -2.0], [-1.0, -2.0]]
    assert (likeliest(logs).tolist(), ties(logs)) == ([0, 1, 0], 2)
    assert (likeliest(logs, [[1, 2], [3, 1, 2], [1, 2]]).tolist()) == [1, 0, 0]


def test_a_class_that_is_never_right_has_no_recall_and_no_f1():
    logs = [[-1.0, -2.0], [-2.0, -1.0], [-1.0, -2.0]]
    metrics = choice_metrics([0, 0, 0], logs, [[2, 3]] * 3, ("no", "yes"))
    assert metrics["recall_no"] == pytest.approx(2 / 3)
    assert metrics["recall_yes"] is metrics["recall_yes_stderr"] is None
    assert "f1" not in metrics


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
