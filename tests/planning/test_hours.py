"""The hours of a study: as measured in its results folder, in proportion to what was measured, or estimated."""

from pathlib import Path

import pytest
from project import laid_over
from sparseft.planning.estimate import study_jobs
from sparseft.planning.hours import KINDS, STAGES, hours_table
from sparseft.study.configfiles import complete_text
from sparseft.study.grid import Run

STUDY = laid_over({})
RULES = Path(__file__).parents[2] / "rules"
TRAINED = Run("smollm2", "hellaswag_mini", "random", 10, "sparse_to_sparse", 0)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder in which a study with the default configuration was made; returns the folder of its benchmarks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/analysis").mkdir(parents=True)
    (tmp_path / "results/analysis/configuration.yaml").write_text(complete_text(STUDY, tmp_path))
    return tmp_path / "results/benchmarks"


def benchmark(file: Path, seconds: float) -> None:
    """Write what Snakemake writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t-\n")


def row(config, stage: str) -> tuple[float, str]:
    """Return the hours of a stage of the whole study, and where they come from."""
    line = next(line for line in hours_table(config, study_jobs(config)) if line.split()[:1] == [stage])
    return float(line.split()[1]), line.partition(", ")[2]


def test_every_rule_that_runs_a_command_has_a_stage_and_every_kind_is_that_of_a_rule():
    text = "\n".join(file.read_text() for file in RULES.rglob("*.smk"))
    rules = {line.split()[1].rstrip(":") for line in text.splitlines() if line.startswith("rule ") and "_" in line}
    rules |= {line.split()[4] for line in text.splitlines() if line.startswith("use rule ")}
    assert {rule for rules in KINDS.values() for rule in rules} <= rules
    prefixes = tuple(word for words in STAGES.values() for word in words)
    assert {rule for rule in rules if not rule.startswith(prefixes)} == set()


def test_without_a_measurement_every_stage_is_estimated(folder):
    for stage in ("prepare", "masks", "train", "merge", "validate", "evaluate", "analyse"):
        hours, source = row(STUDY, stage)
        assert (hours > 0, source) == (True, "estimated")
    longer = laid_over({"training": {"steps": 10000}})
    assert row(longer, "train")[0] > 100 * row(STUDY, "train")[0]
    assert row(longer, "evaluate") == row(STUDY, "evaluate")


def test_equal_jobs_that_ran_here_give_their_mean_and_others_its_multiple(folder):
    for seed, seconds in ((0, 3600), (1, 7200)):
        run = Run(**{**vars(TRAINED), "seed": seed})
        benchmark(folder / f"train_adapter/{run.id}.tsv", seconds)
        benchmark(folder / f"train_adapter/{run.id.replace('to_sparse', 'to_dense')}.tsv", 1800)
    # Three sparse_to_sparse trainings, and the dense one.
    assert row(STUDY, "train") == (3 * 1.5 + 0.5, "measured here before")
    hours, source = row(laid_over({"training": {"steps": 10000}}), "train")
    assert (hours > 1000, source) == (True, "estimated")
    # A damaged file, a foreign one.
    benchmark(folder / f"train_adapter/{TRAINED.id}.tsv", "-")
    benchmark(folder / f"train_adapter/{TRAINED.id}-copy.tsv", 1)
    assert row(STUDY, "train")[0] == 3 * 2 + 0.5
    # The settings of a training that the last configuration no longer names are not known.
    benchmark(folder / f"train_adapter/{TRAINED.id.replace('-seed', '-long-seed')}.tsv", 3 * 7200)
    assert row(STUDY, "train") == (3 * 2 + 0.5, "measured here before")
    # In another results folder, nothing was measured.
    assert row(laid_over({"results": "results/other"}), "train")[1] == "estimated"


def test_jobs_of_no_run_are_measured_by_their_names(folder):
    for name in ("prepare_model/smollm2", "prepare_task/hellaswag_mini", "compute_one_mask/smollm2/dense_sparsity00"):
        benchmark(folder / f"{name}.tsv", 3600)
    assert row(STUDY, "prepare") == (2.0, "measured here before")
    assert row(STUDY, "masks")[1] == "3 estimated, 1 measured here before"


def test_what_is_not_known_yet_is_counted_and_not_guessed(folder):
    unknown = laid_over({"models": {"smollm2": {"source": "hub:a/b"}}})
    assert row(unknown, "train")[1] == "without 4 whose time is not known yet"
    benchmark(folder / f"train_adapter/{TRAINED.id.replace('to_sparse', 'to_dense')}.tsv", 3600)
    appliance = laid_over({"backend": "cerebras", "grid": {"modes": ["sparse_to_dense"]}})
    # The compilations.
    assert row(appliance, "train") == (4.0, "estimated, without 3 whose time is not known yet")
    assert row(appliance, "merge")[1] == "estimated"


def test_the_last_line_is_the_sum(folder):
    lines = hours_table(STUDY, study_jobs(STUDY))
    assert lines[-1].endswith(" on one machine, one job at a time (estimated; see workflow/scripts/estimate.py)")
    assert float(lines[-1].split()[1]) / 60 == pytest.approx(
        sum(float(line.split()[1]) for line in lines[1:-2]), abs=0.05
    )
