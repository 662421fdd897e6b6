"""analysis/columns.py describes the columns that are written: those, in their order, with their types, and no others."""

from pathlib import Path

import pandas as pd
import pytest
from sparseft.analysis import tables
from sparseft.analysis.columns import MISSING, STUDY_TABLES, TABLES
from sparseft.analysis.records import Gap, read_measurements
from sparseft.analysis.throughput_table import throughput_table
from sparseft.tasks.wikitext2 import TEXT_SHA256, metric_name
from test_analyze_results import analyze
from test_throughput_table import write_cell

PPL_CONTEXT = 20  # the N in the name of a perplexity's column
PROBE = "piqa"  # the NAME in the names of a probe's columns
TYPES = {
    "text": r".*[^\d.].*",
    "version": r"\d+\.\d+\.\d+.*",
    "integer": r"-?\d+",
    "number": r"-?\d[\d.e+-]*",
    "true/false": "True|False",
}
RUNS = {
    "m-t-dense-sparsity00-sparse_to_dense-seed0": 0.75,
    "m-t-dense-sparsity00-sparse_to_dense-seed1": 0.75,
    "m-t-unstructured_wanda-sparsity50-no_finetune-seed0": 0.25,
    "m-t-unstructured_wanda-sparsity50-sparse_to_dense-seed0": 0.5,
    "m-t-unstructured_wanda-sparsity50-sparse_to_dense-seed1": 0.5,
    "m-t-dense-sparsity00-sparse_to_dense-seed2": 0.75,
    "m-t-unstructured_wanda-sparsity50-sparse_to_dense-seed2": 0.5,
    "m-t-unstructured_wanda-sparsity50-sparse_to_dense-long-seed0": 0.5,
}
# No method uses all of these.
MASK = {"scope": "row", "sequential": True, "seed": 1, "nm_group": 4, "calibration_examples": 128}


def check(path: Path, perplexity: str | None = None, *, further: tuple[str, ...] = ()) -> None:
    """Compare the file at `path` with its description.

    `perplexity` is the column of the measured one, if any. `further` begins the names of the other columns that exist only if a
    run has a value."""
    described = {table.file: table.columns for table in TABLES}[path.name]
    names = {
        column.name: column.name.replace("ppl_N", f"ppl_{PPL_CONTEXT}").replace("NAME", PROBE) for column in described
    }
    columns = {names[column.name]: column for column in described}
    optional = [name for name, column in columns.items() if name != column.name or column.is_optional]
    present = [name for name in optional if name == perplexity or name.startswith(further)]
    expected = [name for name in columns if name not in optional or name in present]
    written = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(written) == expected
    for name in expected:
        column, values = columns[name], written[name]
        filled = values[values != ""]
        assert len(filled), name
        assert filled.str.fullmatch(TYPES[column.type]).all(), (name, column.type)
        assert column.empty != "never" or len(filled) == len(values), name


@pytest.mark.parametrize("text", [None, TEXT_SHA256, "b" * 64])  # of no perplexity, of WikiText-2, of another text
def test_the_tables_of_runs_are_as_the_docs_say(write_run, tmp_path, text):
    perplexity = metric_name(text, PPL_CONTEXT) if text else None

    def change(files: dict) -> None:
        files["validation_report"].update(mask=MASK)
        if text:
            files["evaluation"]["metrics"][perplexity] = 19.5
            files["evaluation"]["inputs"]["wikitext2"] = text

    for run_id, value in RUNS.items():
        rate = 0.002 if run_id.endswith("seed2") else 0.001  # two settings
        write_run(run_id, value, speed=4.5, labels=lambda _: [0] * 80 + [1] * 120, classes=True,
                  training={"learning_rate": rate}, change=change)  # fmt: skip
    write_run("m-u-random-sparsity50-no_finetune-seed0", 0.5, generated=True)  # no task has every metric
    analyze(tmp_path / "runs", tmp_path)
    for table in set(STUDY_TABLES) - {MISSING}:
        check(tmp_path / table.file, perplexity)


def test_the_other_tables_are_as_the_docs_say(tmp_path):
    path = write_cell(tmp_path, "m-t-unstructured-sparsity50-sparse_to_dense-long", sequence_length=64)
    measured = throughput_table(read_measurements([path]))
    tables.write_csv(measured, tmp_path / "throughput_vs_batch_size.csv")
    check(tmp_path / "throughput_vs_batch_size.csv")
    tables.write_csv(tables.missing([Gap("m", True, "why")]), tmp_path / "missing.csv")
    check(tmp_path / "missing.csv")


def test_the_comparison_with_a_baseline_is_as_the_docs_say(write_run, tmp_path):
    for run_id, value in RUNS.items():
        write_run(run_id, value, speed=4.5)
    baseline = tmp_path / "baseline.csv"
    rows = ("theirs,t,50,0.5,3.5,GPU", "theirs,t,60,0.4,3.5,GPU")
    baseline.write_text("\n".join(("baseline,task,sparsity,value,samples_per_second,device", *rows)) + "\n")
    analyze(tmp_path / "runs", tmp_path, "--baseline", baseline)
    written = pd.read_csv(tmp_path / "baseline_comparison.csv")
    (table,) = (table for table in TABLES if table.file == "baseline_comparison.csv")
    assert list(written) == [column.name for column in table.columns]
    for column in table.columns:
        assert column.empty != "never" or written[column.name].notna().all(), column.name


def test_every_description_is_a_sentence_with_a_known_type():
    columns = [column for table in TABLES for column in table.columns]
    assert len(columns) > 250
    for column in columns:
        assert column.type in TYPES, column.name
        assert column.meaning.endswith("."), column.name


def test_the_tables_of_losses_and_of_probes_are_as_the_docs_say(write_run, tmp_path):
    for run_id, value in RUNS.items():
        rate = 0.002 if run_id.endswith("seed2") else 0.001
        write_run(run_id, 3 - value, by_loss=True, speed=4.5, training={"learning_rate": rate}, probes={PROBE: value},
                  change=lambda files: files["validation_report"].update(mask=MASK))  # fmt: skip
        write_run(run_id.replace("-t-", "-u-"), value, labels=lambda _: [0] * 80 + [1] * 120, classes=True)
    analyze(tmp_path / "runs", tmp_path)
    further = ("probe", "token_perplexity", "definition")
    written = pd.read_csv(tmp_path / "summary.csv", index_col="run_id")
    assert {"probe_piqa", "probes_mean", "token_perplexity", "definition_sha256"} <= set(written)
    assert "calibration_length" not in written
    for name in ("comparisons.csv", "grouped_summary.csv", "sparsity_vs_performance.csv"):
        check(tmp_path / name, further=further)
