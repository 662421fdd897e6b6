"""The sentences on tables of values by hand: right answers of 100 examples by method, sparsity and mode."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sparseft.analysis.claims import BETTER, EXCLUDED, OPEN, SAME, UNKNOWN, WORSE, Claim, Results, claims
from sparseft.analysis.derived import Derived, derive
from sparseft.analysis.findings import explain_verdict, findings, headline
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.records import read_runs

pytestmark = pytest.mark.long

TOLERANCE = 0.02
# Words that claim a difference, or that nothing can make one.
CHANGES = ("lowers", "raises", "brings", "falls", "nothing helps")
DENSE = {("dense", 0): (94, 96)}
CURVE = DENSE | {
    ("unstructured", 30): (95, 96, 97),
    ("unstructured", 50): (70, 92, 95),
    ("unstructured", 70): (26, 27, 28),
    ("random", 30): (30, 40, 45),
    ("random", 50): (26, 25, 27),
    ("random", 70): (24, 25, 26),
}

Table = dict[tuple[str, int], tuple[int | None, ...]]


@pytest.fixture
def study(write_run, tmp_path: Path) -> Callable[..., Derived]:
    """Return a function that writes a study with these right answers, from one seed or several, and returns its tables."""

    def write(table: Table, *, seeds: int = 1, **changes: object) -> Derived:
        for (method, sparsity), answers in table.items():
            modes = ("no_finetune", "sparse_to_dense", "sparse_to_sparse")[: len(answers)]
            for mode, right in zip(modes, answers, strict=True):
                for seed in range(seeds) if right is not None else ():
                    run_id = f"m-t-{method}-sparsity{sparsity:02}-{mode}-seed{seed}"
                    write_run(run_id, right / 100, examples=100, **changes)
        return derive(judge_runs(read_runs(tmp_path / "runs")[0]), TOLERANCE)

    return write


def claim(derived: Derived, sparsity: int) -> Claim:
    """Return what is claimed at one sparsity."""
    (only,) = [claim for claim in claims(Results(derived)) if claim.sparsity.split()[0] == str(sparsity)]
    return only


def sentence(derived: Derived, sparsity: int) -> str:
    """Return the one sentence on the best method of a sparsity."""
    (only,) = [text for text in headline(derived, TOLERANCE) if re.match(rf"At [\d, and]*\b{sparsity}\b", text)]
    return only


def numbers(text: str) -> list[float]:
    """Return the values that a sentence gives."""
    return [float(number) for number in re.findall(r"\d\.\d+", text)]


def test_a_curve_that_bends_is_summed_up_in_four_sentences(study):
    derived = study(CURVE)
    assert [claim(derived, sparsity).pruning for sparsity in (30, 50, 70)] == [SAME, WORSE, WORSE]
    assert [claim(derived, sparsity).hopeless for sparsity in (30, 50, 70)] == [False, False, True]
    assert (claim(derived, 50).tuning, claim(derived, 50).remaining) == (BETTER, SAME)
    assert numbers(sentence(derived, 30))[:2] == [0.95, 0.94]
    assert numbers(sentence(derived, 50)) == [0.94, 0.70, 0.95, 0.96]
    assert numbers(sentence(derived, 70)) == [0.94, 0.26, 0.25]  # the last is chance
    assert "nothing helps" in sentence(derived, 70)
    assert "brings" not in sentence(derived, 50)  # 0.95 is below the dense model's 0.96
    *_, control = headline(derived, TOLERANCE)
    assert "random" in control.lower()
    assert numbers(control) == [0.45, 0.27, 0.97, 0.95]
    assert len(headline(derived, TOLERANCE)) == 4


def test_a_difference_that_is_not_significant_is_never_called_a_fall_a_rise_or_hopeless(study):
    derived = study(DENSE | {("unstructured", 50): (91, 93, 92), ("random", 50): (90, 92, 91)})
    result = claim(derived, 50)
    assert (result.pruning, result.tuning, result.remaining, result.costs_nothing) == (SAME, SAME, SAME, False)
    text = " ".join(headline(derived, TOLERANCE))
    assert not any(word in text for word in CHANGES)
    assert "nothing measurable" not in text  # 0.91 is below 0.94, and a loss is not excluded
    assert "100 examples" in text


def test_equal_values_cost_nothing_measurable_but_exclude_no_loss_that_the_examples_cannot_see(study):
    derived = study({("dense", 0): (100, 100), ("unstructured", 50): (100, 100, 100)})
    assert (claim(derived, 50).costs_nothing, claim(derived, 50).loss) == (True, OPEN)
    assert numbers(sentence(derived, 50)) == [1.0, 1.0, 0.02]
    assert "cannot exclude" in sentence(derived, 50)


def test_a_loss_is_excluded_only_up_to_the_first_point_of_the_curve_that_fails(study):
    derived = study({("dense", 0): (60, 60), ("unstructured", 30): (59, 59, 59), ("unstructured", 50): (75, 60, 60)})
    verdicts = derived.points[derived.points["mode"] == "no_finetune"].set_index("sparsity")["verdict"]
    assert (verdicts[30], verdicts[50]) == ("undecided", "within tolerance")
    assert (claim(derived, 30).loss, claim(derived, 50).loss) == (OPEN, None)
    assert "excluded" not in " ".join(headline(derived, TOLERANCE))
    derived = study({("unstructured", 30): (75, 60, 60)})
    assert (claim(derived, 30).loss, claim(derived, 50).loss) == (EXCLUDED, EXCLUDED)


def test_fine_tuning_that_helps_but_not_to_the_dense_level_is_said_with_that_level(study):
    derived = study(DENSE | {("unstructured", 70): (30, 60, 70)})
    assert (claim(derived, 70).tuning, claim(derived, 70).remaining) == (BETTER, WORSE)
    text = sentence(derived, 70)
    assert numbers(text) == [0.94, 0.30, 0.70, 0.96]
    assert "brings" not in text
    assert "sparse_to_sparse" in text  # the mode of 0.70


def test_fine_tuning_brings_nothing_back_where_one_of_several_values_stays_below_the_dense_one(study):
    derived = study(DENSE | {("unstructured", 50): (70, 96, 96), ("unstructured", 60): (60, 92, 92)})
    assert sentence(derived, 50) == sentence(derived, 60)
    assert "brings" not in sentence(derived, 50)
    (only,) = headline(study({("unstructured", 60): (60, 97, 97)}), TOLERANCE)
    assert "brings" in only


def test_fine_tuning_that_does_not_help_is_not_called_hopeless_above_chance(study):
    derived = study(DENSE | {("unstructured", 70): (50, 52, 51)})
    result = claim(derived, 70)
    assert (result.pruning, result.tuning, result.hopeless) == (WORSE, SAME, False)
    assert numbers(sentence(derived, 70)) == [0.94, 0.50, 0.52]
    assert "nothing helps" not in sentence(derived, 70)


def test_nothing_is_called_hopeless_while_a_run_of_the_sparsity_has_a_fault(study, write_run):
    study(CURVE)
    write_run("m-t-structured-sparsity70-no_finetune-seed0", 0.2, examples=100, change=fault)
    assert not claim(study({}), 70).hopeless


def test_fine_tuning_that_hurts_is_said(study):
    derived = study({("dense", 0): (94, 60), ("unstructured", 50): (93, 61, 50)})
    assert claim(derived, 50).tuning == WORSE
    assert numbers(sentence(derived, 50)) == [0.93, 0.94, 0.61, 0.60]


def test_a_study_of_one_sparsity(study):
    derived = study(DENSE | {("unstructured", 50): (70, 92, 95), ("random", 50): (26, 25, 27)})
    assert len(headline(derived, TOLERANCE)) == 2
    assert numbers(sentence(derived, 50)) == [0.94, 0.70, 0.95, 0.96]


def test_without_a_dense_run_nothing_is_said_to_be_lost(study):
    derived = study({key: answers for key, answers in CURVE.items() if key[0] != "dense"})
    assert [one.pruning for one in claims(Results(derived))] == [UNKNOWN] * 3
    text = " ".join(headline(derived, TOLERANCE))
    assert "no dense run" in text
    assert "lowers" not in text
    assert "nothing helps" not in text
    assert numbers(sentence(derived, 50)) == [0.70, 0.95]  # fine-tuning is compared all the same


def test_without_random_pruning_there_is_no_control(study):
    derived = study({key: answers for key, answers in CURVE.items() if key[0] != "random"})
    assert len(headline(derived, TOLERANCE)) == 3
    assert "control" not in " ".join(headline(derived, TOLERANCE))


def test_random_pruning_is_the_method_and_no_control_if_there_is_no_other(study):
    derived = study({key: answers for key, answers in CURVE.items() if key[0] != "unstructured"})
    assert {one.method for one in claims(Results(derived))} == {"random"}
    assert "control" not in " ".join(headline(derived, TOLERANCE))


def test_random_pruning_that_is_better_is_said_to_be(study):
    derived = study(DENSE | {("structured", 50): (30, 30, 31), ("random", 50): (60, 70, 71)})
    assert headline(derived, TOLERANCE)[-1].endswith("scores higher at 50 % (0.71 against 0.31).")


def test_without_trained_runs_fine_tuning_is_not_mentioned(study):
    derived = study({key: answers[:1] for key, answers in CURVE.items()})
    assert [one.tuning for one in claims(Results(derived))] == [UNKNOWN] * 3
    text = " ".join(headline(derived, TOLERANCE))
    assert "LoRA" not in text
    assert "nothing helps" not in text
    assert numbers(sentence(derived, 50)) == [0.94, 0.70]
    assert numbers(sentence(derived, 70)) == [0.94, 0.26, 0.25]


def test_trained_runs_without_untrained_ones_are_compared_with_the_fine_tuned_dense_model(study):
    derived = study({("dense", 0): (None, 96), ("unstructured", 50): (None, 70, 60)})
    assert (claim(derived, 50).pruning, claim(derived, 50).remaining) == (UNKNOWN, WORSE)
    assert numbers(sentence(derived, 50)) == [0.70, 0.96]


def test_of_several_seeds_one_that_does_not_agree_leaves_no_claim(study, write_run):
    study({("dense", 0): (94, 96), ("unstructured", 50): (70, 92, 95)}, seeds=2)
    write_run("m-t-unstructured-sparsity50-sparse_to_dense-seed1", 0.70, examples=100)
    write_run("m-t-unstructured-sparsity50-sparse_to_sparse-seed1", 0.71, examples=100)
    derived = study({})
    result = claim(derived, 50)
    assert (result.pruning, result.tuning) == (WORSE, SAME)
    assert numbers(sentence(derived, 50)) == [0.94, 0.70, 0.83]  # the means over both seeds


def test_generated_answers_are_measured_from_zero(study):
    derived = study(
        {("dense", 0): (30, 60), ("unstructured", 50): (8, 40, 41), ("unstructured", 70): (0, 0, 0)}, generated=True
    )
    assert numbers(sentence(derived, 50)) == [0.30, 0.08, 0.41, 0.60]
    assert claim(derived, 70).hopeless
    assert "accuracy" not in " ".join(headline(derived, TOLERANCE))


def test_a_dense_model_at_chance_has_nothing_to_lose(study):
    derived = study({("dense", 0): (26, 27), ("unstructured", 50): (20, 26, 27), ("random", 50): (24, 25, 26)})
    assert claim(derived, 50).pruning == UNKNOWN
    text = " ".join(headline(derived, TOLERANCE))
    assert not any(word in text for word in CHANGES)
    assert numbers(headline(derived, TOLERANCE)[0]) == [0.26, 0.27, 0.25]


def test_where_only_the_untrained_dense_model_is_at_chance_the_fine_tuned_ones_are_compared(study):
    derived = study({("dense", 0): (26, 90), ("unstructured", 50): (25, 60, 65)})
    assert (claim(derived, 50).pruning, claim(derived, 50).remaining) == (UNKNOWN, WORSE)
    assert numbers(headline(derived, TOLERANCE)[0]) == [0.26, 0.25]
    assert numbers(sentence(derived, 50)) == [0.65, 0.90]


def test_a_study_of_dense_runs_only_says_what_they_score(study):
    (text,) = headline(study({("dense", 0): (60, 90)}), TOLERANCE)
    assert numbers(text) == [0.60, 0.90]
    assert "significant gain" in text


def test_several_methods_are_summed_up_by_the_best_of_each_sparsity(study):
    derived = study(DENSE | {
        ("unstructured", 50): (70, 92, 95), ("unstructured_wanda", 50): (60, 85, 85),
        ("unstructured", 70): (30, 31, 32), ("unstructured_wanda", 70): (50, 70, 71),
        ("random", 70): (25, 26, 27),
    })  # fmt: skip
    assert [(one.sparsity, one.method) for one in claims(Results(derived))] == [
        ("50", "unstructured"), ("70", "unstructured_wanda"),
    ]  # fmt: skip
    assert numbers(sentence(derived, 70)) == [0.94, 0.50, 0.71, 0.96]
    assert "unstructured_wanda" in sentence(derived, 70)


@pytest.mark.parametrize("random", [True, False])
def test_nine_sparsities_are_at_most_four_sentences_and_every_sparsity_is_in_one(study, random):
    rows = [
        (94, 95, 95),
        (95, 94, 96),
        (94, 96, 95),
        (90, 95, 95),
        (80, 90, 90),
        (60, 80, 84),
        (40, 50, 50),
        (26, 27, 25),
        (25, 26, 24),
    ]
    table = DENSE | {("unstructured", 10 * number): row for number, row in enumerate(rows, start=1)}
    if random:
        table |= {("random", sparsity): (26, 26, 27) for sparsity in (10, 90)}
    derived = study(table)
    text = headline(derived, TOLERANCE)
    assert len(text) <= 4
    for sparsity in range(10, 100, 10):
        assert re.search(rf"\b{sparsity}\b(?!\.)", " ".join(text)), sparsity
    assert "lowers" not in sentence(derived, 40)  # 0.90 against 0.94


def test_a_fall_that_only_fine_tuned_models_show_is_not_merged_with_none(study):
    result = claim(study(CURVE), 30)
    assert result.pruning == SAME
    assert replace(result, remaining=WORSE).outcome != replace(result, remaining=SAME).outcome


def fault(files: dict) -> None:
    """Break the chain of hashes of a run."""
    files["merge"]["inputs"]["mask"] = "f" * 64


def test_runs_with_a_fault_support_no_sentence(study):
    derived = study(CURVE, change=fault)
    assert (headline(derived, TOLERANCE), findings(derived, TOLERANCE)) == ([], [])


@pytest.mark.parametrize("lost", ["no_finetune", "sparse_to_dense", "sparse_to_sparse"])
def test_a_fault_of_one_run_takes_its_value_out_of_every_sentence(study, write_run, lost):
    study(CURVE)
    write_run(f"m-t-unstructured-sparsity50-{lost}-seed0", 0.99, examples=100, change=fault)
    derived = study({})
    assert not any(0.99 in numbers(text) for text in headline(derived, TOLERANCE))
    assert not any("0.990" in text for text in findings(derived, TOLERANCE))


def test_a_dense_run_with_a_fault_leaves_no_claim_of_what_pruning_costs(study, write_run):
    study(CURVE)
    for mode in ("no_finetune", "sparse_to_dense"):
        write_run(f"m-t-dense-sparsity00-{mode}-seed0", 0.99, examples=100, change=fault)
    derived = study({})
    assert [one.pruning for one in claims(Results(derived))] == [UNKNOWN] * 3
    assert "fault" in headline(derived, TOLERANCE)[0]
    assert not any("lowers" in text or 0.99 in numbers(text) for text in headline(derived, TOLERANCE))


@pytest.mark.parametrize(("verdict", "difference", "words"), [
    ("within tolerance", -0.001, ["excluded"]),
    ("beyond tolerance", -0.2, ["shown"]),
    ("undecided", 0.0, ["equal", "120", "cannot"]),
    ("undecided", 0.01, ["higher", "120", "cannot"]),
    ("undecided", -0.01, ["lower", "120", "cannot"]),
    (None, -0.2, ["-"]),
])  # fmt: skip
def test_a_verdict_in_words_has_the_side_and_the_number_of_examples(verdict, difference, words):
    text = explain_verdict(verdict, difference, 120)
    assert all(word in text for word in words)


def test_what_fine_tuning_wins_back_of_other_methods_is_said_with_its_numbers_and_only_where_both_changes_are_significant(
    study,
):
    table = DENSE | {
        ("unstructured", 10): (94, 96, 96),
        ("structured", 10): (30, 70, 80),
        ("semistructured", 10): (40, 41, 42),
        ("random", 10): (25, 85, 89),
    }
    (text,) = [text for text in headline(study(table), TOLERANCE) if "wins back" in text]
    assert numbers(text) == [0.30, 0.80, 0.25, 0.89]
    assert re.findall(r"(\w+) at 10 %", text) == ["structured", "random"]
