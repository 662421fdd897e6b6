"""A study with a fault ends before its first job, with one line."""

import pytest
from project import TINY_STUDY, Study, tiny_grid


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"grdi": {}}, "error: configuration: grdi: unknown key"),
        ({"grid": {"sparsities": [100]}}, "error: configuration: grid.sparsities.0: Input should be less than 100"),
        ({"grid": {"methods": ["best"]}}, "error: configuration: grid.methods.0: method 'best' is unknown"),
        ({"grid": {**tiny_grid("a", "boolq_mini"), "models": ["a", "b"]}}, "models.b"),
    ],
)
def test_a_fault_in_the_configuration_ends_snakemake_in_one_line(tmp_path, sections, line):
    study = Study(tmp_path)
    study.configure({name: tmp_path / name for name in "ab"}, **TINY_STUDY | sections)
    said = study.snakemake("--dry-run", expect=2)
    (error,) = [text for text in said.splitlines() if text.startswith("error: ")]
    assert line in error
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"study.yaml", ".snakemake"}
