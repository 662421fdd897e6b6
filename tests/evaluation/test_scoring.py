"""What follows from the rows of an evaluation without lm-eval."""

import numpy as np
import pytest
from sparseft.evaluation.scoring import class_metrics, likeliest, prompt_digest
from sparseft.tasks.boolq_mini import BOOLQ_MINI
from sparseft.tasks.metrics import WIKITEXT2_SHA256, perplexity_name


def test_the_first_of_equally_likely_choices_is_taken_and_the_tie_counted():
    logs = [[-1.0, -1.0], [-3.0, -2.0, -2.0], [-1.0, -2.0]]
    predictions, ties = likeliest(logs)
    assert (predictions.tolist(), ties) == ([0, 1, 0], 2)
    predictions, ties = likeliest(logs, [[1, 2], [3, 1, 2], [1, 2]])
    assert (predictions.tolist(), ties) == ([1, 0, 0], 2)


def test_a_class_that_is_never_right_has_no_recall():
    metrics = class_metrics([0, 0, 0], np.array([0, 1, 0]), ("no", "yes"))
    assert metrics["recall_no"] == pytest.approx(2 / 3)
    assert metrics["recall_yes"] is metrics["recall_yes_stderr"] is None


def test_the_digest_of_the_prompts_follows_every_text_and_their_order():
    rows = BOOLQ_MINI.generate("validation", 3, 0)
    another_answer = [*rows[:2], rows[2] | {"answer": not rows[2]["answer"]}]
    assert len({prompt_digest(BOOLQ_MINI, part) for part in (rows, rows[::-1], rows[:2], another_answer)}) == 4
    assert prompt_digest(BOOLQ_MINI, [dict(row) for row in rows]) == prompt_digest(BOOLQ_MINI, rows)


def test_no_text_but_wikitext2_gives_its_name():
    assert perplexity_name(WIKITEXT2_SHA256, 2048) == "wikitext2_ppl_2048"
    assert perplexity_name("f" * 64, 20) == "local_text_ppl_20"
