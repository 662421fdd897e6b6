"""What the terminal says of the time that is left, of a run that has ended, and of a wrong target."""

import pytest
from sparseft.errors import InputError
from sparseft.storage.record import write_record
from sparseft.study.configfiles import read_configuration
from sparseft.study.grid import ResultPaths, Run
from sparseft.study.terminal import (
    INTERVAL,
    SHOWN_INPUTS,
    JobProgress,
    Remaining,
    check_targets,
    duration,
    findings,
    first_inputs,
    kind_of,
    outcome,
    shortened,
)

RUN = Run("smollm2", "hellaswag_mini", "unstructured", 50, "sparse_to_dense", 0)


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
     (91, "about 2 minutes"), (5400, "about 90 minutes"), (7200, "about 2 hours"), (11520, "about 3.2 hours"), (360000, "about 100 hours")],
)  # fmt: skip
def test_a_length_of_time_in_words(seconds, words):
    assert duration(seconds) == words


def test_the_outcome_of_a_run_is_its_metric_with_the_standard_error():
    record = {"metric": "acc_norm", "value": 0.9416, "standard_error": 0.0214}
    line = outcome(RUN, record)
    assert line == "smollm2 hellaswag_mini unstructured 50 % sparse_to_dense seed 0: acc_norm 0.942 ± 0.021"
    assert outcome(RUN, record | {"overlap": 0.0}) == line
    assert outcome(RUN, record | {"overlap": 0.25}) == f"{line}, 25 % of it also occurs in training or calibration data"


def test_a_run_that_ends_shows_its_result_and_another_job_only_the_time_now_and_then(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = {"metric": "acc", "value": 0.75, "standard_error": 0.05}
    write_record(tmp_path / f"results/runs/{RUN.id}/evaluation.json", result)
    wildcards = {**vars(RUN), "sparsity": "50"}
    jobs = [("merge_adapter", wildcards), ("evaluate_run", wildcards)]
    progress = JobProgress(jobs, ResultPaths(), 0, with_time=True)
    for job, (rule, _) in enumerate(jobs):
        progress.start(job, rule, wildcards, 0)
    assert progress.end(0, INTERVAL) == []
    assert progress.end(1, INTERVAL) == [outcome(RUN, result), "2 of 2 jobs done"]
    assert progress.end("a job that never started", INTERVAL) == []
    assert progress.end("a job that never started", 2 * INTERVAL + 1) == ["2 of 2 jobs done"]


def test_a_result_that_cannot_be_read_is_reported_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wildcards = {**vars(RUN), "sparsity": "50"}
    progress = JobProgress([("evaluate_run", wildcards)], ResultPaths(), 0, with_time=True)
    progress.start(0, "evaluate_run", wildcards, 0)
    note, count = progress.end(0, 1)
    assert note.startswith(f"note: {RUN.id}: ")
    assert count == "1 of 1 jobs done"


def test_the_findings_end_with_the_place_of_the_page(tmp_path):
    assert findings(tmp_path).endswith(f"{tmp_path}/")
    (tmp_path / "findings.txt").write_text("what was found\n")
    (tmp_path / "report.html").write_text("")
    assert findings(tmp_path) == f"what was found\nThe results page: {tmp_path}/report.html"


def test_a_target_that_no_rule_makes_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("")
    config = read_configuration([])
    stages = {"evaluate"}
    outputs = ["results/analysis/summary.csv", "data/{task}/train.jsonl"]
    check_targets(config, ["there", "evaluate", *outputs[:1]], stages.__contains__, outputs.__contains__, outputs)
    for target, nearest in (("results/analysis/sumary.csv", outputs[0]), ("evalute", "evaluate")):
        with pytest.raises(InputError, match=rf"{target}: .*{nearest}$"):
            check_targets(config, ["there", target], stages.__contains__, outputs.__contains__, outputs)


def test_lines_that_tell_nothing_are_hidden_and_long_lists_are_cut():
    assert shortened("Select jobs to execute...") is None
    assert shortened("") == ""
    assert shortened("exiting (check individual jobs above for details)") == "exiting (`--quiet host` shows each job)"
    inputs = [str(number) for number in range(SHOWN_INPUTS + 3)]
    assert first_inputs(inputs) == [*inputs[:SHOWN_INPUTS], "and 3 more"]
    assert first_inputs(inputs[:SHOWN_INPUTS]) == inputs[:SHOWN_INPUTS]
