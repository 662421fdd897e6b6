"""A finished study on the tiny LLaMA, through Snakemake."""

import pytest
from study import TINY_STUDY, Study, tiny_grid


@pytest.fixture(scope="session")
def small_study(tmp_path_factory, tiny_models) -> Study:
    """A study of five runs on the tiny LLaMA, evaluated; tests that change it put it back."""
    study = Study(tmp_path_factory.mktemp("small") / "a folder with spaces")
    grid = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [0, 50]}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, keep_merged=True, **TINY_STUDY)
    study.snakemake()
    return study
