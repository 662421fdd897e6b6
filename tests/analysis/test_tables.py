"""The tables are tidy: one name and unit for a thing, the same keys in all, and types that pandas reads back."""

import pandas as pd
import pytest
from scipy import stats
from sparseft.analysis import study, tables
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute, write_tables
from sparseft.study.config import Analysis
from storage.sound_records import check_engines

TRAINED = [f"sparse_to_dense-{name}-seed{seed}" for name in ("low", "high") for seed in (0, 1)]
RUNS = [f"m-t-dense-sparsity00-{name}" for name in ("no_finetune-seed0", *TRAINED)]
RUNS += [f"m-t-unstructured_wanda-sparsity50-{name}" for name in ("no_finetune-seed0", *TRAINED)]
RUNS.append("m-t-random-sparsity50-no_finetune-seed0")


def with_perplexity(files: dict) -> None:
    files["evaluation"]["metrics"]["local_text_ppl_64"] = 19.5
    files["evaluation"]["inputs"]["wikitext2"] = "b" * 64


@pytest.fixture
def written(write_run, runs_dir, tmp_path) -> dict[str, pd.DataFrame]:
    """Return the tables of a study as pandas reads them."""
    for run_id in RUNS:
        selection = {"selection": 0.5 if "low" in run_id else 0.25} if "sparse_to_dense" in run_id else {}
        write_run(run_id, 0.5, probes={"piqa": 0.75}, change=with_perplexity, **selection)
    write_tables(compute(read_study(runs_dir), Analysis()), tmp_path)
    return {path.name: pd.read_csv(path) for path in tmp_path.glob("*.csv")}


def test_summary_has_the_measured_columns_and_types_are_read_back(written):
    table = written["summary.csv"]
    assert list(table)[:9] == study.RUN
    assert {"acc", "local_text_ppl_64", "probe_piqa"} < set(table)
    types = written["grouped_summary.csv"].dtypes
    assert types[["sparsity", "seeds", "examples", "chosen"]].map(str).tolist() == ["int64"] * 3 + ["bool"]


def test_a_run_whose_engines_were_checked_has_what_they_measured(write_run, runs_dir):
    for run_id in RUNS:
        write_run(run_id, change=check_engines if run_id == RUNS[-1] else lambda files: None)
    results = compute(read_study(runs_dir), Analysis())
    runs = results.runs.set_index("run_id")
    low, high = stats.t.interval(0.95, df=1, loc=2.0, scale=0.5)
    speeds = {"vllm_speedup": 2.0, "vllm_speedup_low": pytest.approx(low), "vllm_speedup_high": pytest.approx(high)}
    others = {"vllm_tokens_per_second": 65.0, "vllm_first_token_seconds": 0.25, "vllm_memory_bytes": 9e8}
    measured = speeds | others
    assert runs.loc[RUNS[-1], list(measured)].to_dict() == measured
    assert runs.loc[RUNS[:-1], list(measured)].isna().all(axis=None)
    assert set(measured) <= set(tables.ordered(runs, [study.MEASURED], results.measured))
    # A cell of one run has the interval of its repeats.
    cell = results.cells[results.cells["method"] == "random"].iloc[0]
    assert cell[list(speeds)].to_dict() == speeds


def test_integers_of_settings_stay_integers_beside_blanks(write_run, runs_dir):
    seed = 2**62 + 1
    write_run(RUNS[0])
    write_run(RUNS[-1], change=lambda files: files["validation_report"]["mask"].update(seed=seed))
    table = compute(read_study(runs_dir), Analysis()).settings
    assert table["masks.random.seed"].dropna().tolist() == [seed]


@pytest.mark.parametrize("change", [lambda results: results[-1].update(difference=0.06), lambda results: results.pop()])
def test_an_engine_that_computes_something_else_or_not_each_model_has_no_columns(write_run, runs_dir, change):
    def differ(files: dict[str, dict]) -> None:
        check_engines(files)
        change(files["engines"]["results"])

    write_run(RUNS[0], change=differ)
    results = compute(read_study(runs_dir), Analysis())
    assert not any(name.startswith("vllm") for name in results.runs)
    assert "engines.json: vllm does not agree with transformers" in read_study(runs_dir).faults["text"].tolist()
