"""findings.txt: the table and the headline of a study, in at most 20 lines whatever its size."""

import re
from pathlib import Path

import pytest
from sparseft.analysis.derived import derive
from sparseft.analysis.findings import headline
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.overview import LINES, overview
from sparseft.analysis.records import Gap, read_runs

DENSE = "m-t-dense-sparsity00-no_finetune-seed0"
TUNED = "m-t-unstructured-sparsity50-sparse_to_dense-seed0"


def text_of(runs: Path, missing: int = 0) -> str:
    """Return the overview of the runs in a folder, of which `missing` more are missing."""
    judged = judge_runs(read_runs(runs)[0])
    gaps = [Gap("m", True, "no such folder")] * missing
    return overview(judged, gaps, derive(judged, 0.02), 0.02)


@pytest.mark.long
def test_a_small_study_shows_its_table_its_headline_and_its_number_of_runs(write_run, tmp_path):
    write_run(DENSE, 0.75)
    write_run(TUNED.replace("sparse_to_dense", "no_finetune"), 0.25)
    write_run(TUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    text = text_of(tmp_path / "runs", missing=2)
    assert re.search(r"^ +method sparsity, % +no_finetune +sparse_to_dense$", text, re.M)
    assert re.search(r"^ *unstructured +50 +0\.250 ± 0\.031 +0\.500 ± 0\.035 \(at fault\)$", text, re.M)
    judged = judge_runs(read_runs(tmp_path / "runs")[0])
    for sentence in headline(derive(judged, 0.02), 0.02):
        assert f"- {sentence}\n" in text
    last = text.splitlines()[-1]
    assert re.findall(r"\d+", last) == ["3", "1", "3", "2"]  # runs, with a fault, not fully checked, missing


def test_runs_with_a_fault_leave_the_table_and_no_sentence(write_run, tmp_path):
    write_run(TUNED, 0.5, change=lambda files: files["merge"]["inputs"].update(mask="f" * 64))
    (sentence,) = [line for line in text_of(tmp_path / "runs").splitlines() if line.startswith("- ")]
    assert "correctness_memo.md" in sentence
    assert not re.search(r"\d", sentence)


@pytest.mark.long
@pytest.mark.parametrize("study", [
    {"models": 1, "tasks": ["boolq"], "sparsities": [30, 50, 70], "seeds": 1},
    {"models": 1, "tasks": ["boolq"], "sparsities": list(range(10, 100, 10)), "seeds": 1},
    {"models": 2, "tasks": ["boolq"], "sparsities": [50], "seeds": 1},
    {"models": 3, "tasks": ["boolq", "hellaswag", "gsm8k"], "sparsities": [50, 70], "seeds": 1},
])  # fmt: skip
def test_a_study_of_any_size_is_at_most_20_lines_and_says_where_the_rest_is(write_grid, tmp_path, study):
    count = write_grid(tmp_path, layers=1, **study)
    text = text_of(tmp_path)
    lines = text.splitlines()
    assert len(lines) <= LINES == 20
    assert lines[-1].startswith(f"{count} runs")
    rows = [line for line in lines if " ± " in line]
    whole = study["models"] == 1 and len(rows) == 1 + 3 * len(study["sparsities"])
    assert whole == (study["sparsities"] == [30, 50, 70])
    assert ("EXPERIMENTS.md" in text) != whole
