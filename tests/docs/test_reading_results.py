"""The example of docs/reading_results.md runs on the tables of a study."""

import pandas as pd
from analysis.frames import default_study
from pages import ROOT, blocks
from sparseft.analysis.results import write_tables

PAGE = ROOT / "docs/reading_results.md"


def test_the_example_in_pandas_joins_the_tables(tmp_path, monkeypatch):
    folder = tmp_path / "results/analysis"
    folder.mkdir(parents=True)
    study = default_study()
    # Each run has a memory of its own, so that a wrong join is seen.
    runs = study.runs.assign(peak_memory_bytes=range(len(study.runs)))
    write_tables(default_study(runs=runs), folder)
    monkeypatch.chdir(tmp_path)
    (example,) = (block.text for block in blocks(PAGE) if block.language == "python")
    names = {}
    exec(example, names)
    points = names["points"]
    assert len(points) == len(study.curves)
    pd.testing.assert_series_equal(points["peak_memory_bytes"], runs["peak_memory_bytes"], check_dtype=False)
