"""Finished studies on the tiny LLaMA, which all test processes share."""

import shutil
from pathlib import Path

import pytest
from box import make
from project import Study, made_once, tiny_grid


@pytest.fixture(scope="session")
def small_study(shared_folder, tiny_models) -> Study:
    """A study of five runs on the tiny LLaMA, evaluated; read only: all test processes share it."""
    folder = shared_folder / "small"
    study = Study(folder / "a folder with spaces")
    with made_once(folder) as first:
        if first:
            grid = tiny_grid("llama", "boolq_mini", ["unstructured"], sparsities=[0, 50])
            study.configure({"llama": tiny_models["llama"]}, grid=grid, keep_merged=True).snakemake()
    return study


@pytest.fixture(scope="session")
def finished_runs(shared_folder) -> Path:
    """A folder with two finished runs (box.py); read only."""
    folder = shared_folder / "finished"
    with made_once(folder) as first:
        if first:
            make(folder)
    return folder


@pytest.fixture
def box(tmp_path, finished_runs) -> Path:
    """A copy of the two finished runs, which a test may change."""
    return Path(shutil.copytree(finished_runs, tmp_path / "box"))


@pytest.fixture
def own_study(tmp_path, small_study) -> Study:
    """A copy of the small study, which a test may change."""
    return Study(Path(shutil.copytree(small_study.folder, tmp_path / "a folder with spaces")))
