"""A results folder of a study's own."""

import shutil
from pathlib import Path

import pytest
from project import Study, tiny_grid

CONFIGURATION = "analysis/configuration.yaml"
# Of one run that is trained, and one that is not.
JOBS = {"train_adapter": 1, "merge_adapter": 2, "validate_sparsity": 2, "evaluate_run": 2, "evaluate": 1}


def configure(study: Study, model: Path, **sections: object) -> None:
    """Write the configuration of one run of each kind on one mask."""
    grid = tiny_grid("llama", "boolq_mini", ["random"]) | {"sparsities": [50], "modes": ["sparse_to_dense"]}
    training = {"steps": 2, "batch_size": 2, "micro_batch_size": 2, "lora_r": 2, "learning_rate": 0.02}
    tasks = {"boolq_mini": {"train_examples": 4, "validation_examples": 4}}
    study.configure({"llama": model}, grid=grid, training=training, tasks=tasks, **sections)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_models) -> Study:
    """A study in the default folder, evaluated."""
    study = Study(tmp_path_factory.mktemp("evaluated"))
    configure(study, tiny_models["llama"])
    study.snakemake("evaluate", f"results/{CONFIGURATION}")
    return study


@pytest.fixture
def study(tmp_path, evaluated) -> Study:
    """A copy of the evaluated study."""
    return Study(Path(shutil.copytree(evaluated.folder, tmp_path / "study")))


def test_another_results_folder_makes_its_own_runs_over_the_models_data_and_masks_that_are_there(study, tiny_models):
    configure(study, tiny_models["llama"], results="results/other")
    planned = study.planned(f"results/other/{CONFIGURATION}", "evaluate")
    assert planned == JOBS | {"write_configuration": 1}
    study.snakemake("evaluate", f"results/other/{CONFIGURATION}")
    names = {path.name for path in (study.folder / "results/other").iterdir()}
    assert names == {"runs", "logs", "benchmarks", "analysis"}
    # Each of them has nothing to do.
    assert study.planned("evaluate") == {}
    configure(study, tiny_models["llama"])
    assert study.planned("evaluate") == {}
    name = "runs/llama-boolq_mini-random-sparsity50-sparse_to_dense-seed0/adapter/adapter_model.safetensors"
    assert (study.folder / "results" / name).read_bytes() == (study.folder / "results/other" / name).read_bytes()


@pytest.mark.parametrize("own", ["results", "results/own"])
def test_a_file_of_another_results_folder_is_refused_in_one_line_even_if_it_exists(study, tiny_models, own):
    other = "results/other" if own == "results" else "results"
    configure(study, tiny_models["llama"], results=own)
    for name in (f"{other}/{CONFIGURATION}", f"{other}/runs/x/train.json"):
        (study.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (study.folder / name).touch()
        (line,) = [line for line in study.snakemake(name, "--dry-run", expect=2).splitlines() if "error" in line]
        assert f"{name}: not in {own}, " in line
