"""A results folder of a study's own."""

CONFIGURATION = "analysis/configuration.yaml"
ADAPTER = "runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0/adapter"


def test_another_results_folder_makes_its_own_runs_over_the_models_data_and_masks_that_are_there(own_study):
    file = own_study.folder / "study.yaml"
    text = file.read_text()
    file.write_text(f"{text}results: results/other\n")
    # Of three runs that are trained, and two that are not.
    jobs = {"train_adapter": 3, "merge_adapter": 5, "validate_sparsity": 5, "evaluate_run": 5, "evaluate": 1}
    made = [f"results/other/{name}" for name in (CONFIGURATION, ADAPTER)]
    assert own_study.planned(made[0], "evaluate") == jobs | {"write_configuration": 1}
    own_study.snakemake(*made)
    names = {path.name for path in (own_study.folder / "results/other").iterdir()}
    assert names == {"runs", "logs", "benchmarks", "analysis"}
    # Both folders have nothing more to do for these.
    assert own_study.planned(*made) == {}
    file.write_text(text)
    assert own_study.planned() == {}
    name = f"{ADAPTER}/adapter_model.safetensors"
    results = own_study.folder / "results"
    assert (results / name).read_bytes() == (results / "other" / name).read_bytes()
