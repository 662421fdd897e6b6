"""What is said of the time that is left, and of a run that has ended."""

import pytest
from sparseft.study.grid import Run
from sparseft.study.terminal import Remaining, duration, kind_of, outcome, replaced_models


def run_jobs(remaining: Remaining, rule: str, spans: list[tuple[float, float]], first: int = 0) -> None:
    """Let jobs of one rule start and end at these seconds."""
    events = []
    for job, (start, end) in enumerate(spans, first):
        events += [(start, 1, job), (end, 0, job)]
    for now, is_start, job in sorted(events):
        if is_start:
            remaining.start(job, rule, now)
        else:
            assert remaining.end(job, now) == rule


def test_jobs_one_after_another_cost_their_time():
    remaining = Remaining({"train": 5})
    run_jobs(remaining, "train", [(0, 300), (300, 600)])
    assert remaining.sentence() == "2 of 5 jobs done, about 15 minutes left"


def test_jobs_side_by_side_share_the_time():
    remaining = Remaining({"train": 6})
    run_jobs(remaining, "train", [(0, 300), (0, 300)])
    assert remaining.sentence() == "2 of 6 jobs done, about 10 minutes left"


def test_the_costs_of_all_jobs_add_up_to_the_time_that_passed():
    remaining = Remaining({"train": 4, "merge": 2})
    run_jobs(remaining, "train", [(0, 70), (10, 100)])
    run_jobs(remaining, "merge", [(100, 150)], first=2)
    ended = [cost for costs in remaining._ended.values() for cost in costs]
    assert sum(ended) == pytest.approx(150)


def test_a_job_that_runs_needs_only_the_rest_of_its_time():
    remaining = Remaining({"train": 2})
    run_jobs(remaining, "train", [(0, 600)])
    remaining.start(1, "train", 600)
    remaining.start(2, "prepare", 900)
    assert remaining.sentence() == "1 of 2 jobs done, about 5 minutes left"


def test_time_in_which_nothing_ran_is_no_cost():
    remaining = Remaining({"train": 3})
    run_jobs(remaining, "train", [(0, 60), (5000, 5060)])
    assert remaining.sentence() == "2 of 3 jobs done, about 1 minute left"


def test_no_time_is_given_before_a_job_of_each_rule_has_ended():
    remaining = Remaining({"train": 3, "evaluate": 3, "analyze_results": 1})
    run_jobs(remaining, "train", [(0, 300)])
    assert remaining.sentence() == "1 of 7 jobs done"
    run_jobs(remaining, "evaluate", [(300, 400)], first=1)
    # 2 x 300 s + 2 x 100 s; the single job of the analysis has no time yet, and is named
    assert remaining.sentence() == "2 of 7 jobs done, about 13 minutes left, not counting analyze_results"


def test_no_time_is_given_before_a_job_of_each_model_and_task_has_ended():
    small, large = (kind_of("train", {"model": name, "task": "t", "seed": "0"}) for name in ("small", "large"))
    remaining = Remaining({small: 2, large: 1, kind_of("prepare", {"model": "large"}): 1})
    remaining.start(0, small, 0)
    assert remaining.end(0, 60) == "train"
    assert remaining.sentence() == "1 of 4 jobs done"
    remaining.start(1, large, 60)
    assert remaining.end(1, 6060) == "train"
    assert remaining.sentence() == "2 of 4 jobs done, about 1 minute left, not counting prepare"


def test_no_time_is_given_of_a_plan_that_waits_in_a_queue_or_has_lost_a_job():
    remaining = Remaining({"train": 3})
    run_jobs(remaining, "train", [(0, 300)])
    assert remaining.sentence(with_time=False) == "1 of 3 jobs done"
    remaining.start(1, "train", 300)
    remaining.fail(1, 310)
    assert remaining.sentence() == "1 of 3 jobs done"


def test_no_time_is_given_if_only_a_job_without_one_is_left():
    remaining = Remaining({"train": 1, "analyze_results": 1})
    run_jobs(remaining, "train", [(0, 300)])
    assert remaining.sentence() == "1 of 2 jobs done"


def test_the_last_job_leaves_nothing():
    remaining = Remaining({"train": 1})
    run_jobs(remaining, "train", [(0, 300)])
    assert remaining.sentence() == "1 of 1 jobs done"
    assert remaining.end("a job that never started", 400) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "less than a minute"), (59, "less than a minute"), (60, "about 1 minute"), (89, "about 1 minute"),
     (91, "about 2 minutes"), (5400, "about 90 minutes"), (7200, "about 2 hours"), (360000, "about 100 hours")],
)  # fmt: skip
def test_a_length_of_time_in_words(seconds, words):
    assert duration(seconds) == words


def test_the_outcome_of_a_run_is_its_metric_with_the_standard_error():
    run = Run("smollm2", "hellaswag_mini", "unstructured", 50, "sparse_to_dense", 0)
    said = outcome(run, {"metric": "acc_norm", "value": 0.9416, "standard_error": 0.0214})
    assert said == "smollm2 hellaswag_mini unstructured 50 % sparse_to_dense seed 0: acc_norm 0.942 ± 0.021"


def test_a_model_that_a_plan_replaces_is_named():
    planned = ["models/m/manifest.json", "masks/m/masks_sparsity50_random.pt", "results/runs/x/train.json"]
    assert "models/m " in replaced_models(planned)
    assert replaced_models(planned[1:]) == ""
