"""A study whose masks and reconstructions look at what the model samples, and at a mixture of it with a file and the
task's examples. The divergence of every run is measured on another text that the model samples."""

import pytest
from hub_cache import write
from project import Study, tiny_grid
from sparseft.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
METHODS = ["unstructured", "unstructured_wanda_on_self", "unstructured_sparsegpt_on_taskall"]
RUN = f"results/runs/llama-{TASK}-unstructured-sparsity50-{{}}-seed0"
NEW, FIRST, SECOND = "sparse_to_sparse", "reconstruct", "reconstruct_to_sparse"
CALIBRATION = {
    "self": {"text": "self", "examples": 8, "length": 16},
    "web": {"text": "web.jsonl"},
    "taskall": {"text": ["self", "task", "web"], "shares": [2, 1, 1], "examples": 8, "length": 12},
}
RECONSTRUCTION = {"calibration": "self", "examples": 6, "steps": 12, "batch_size": 3, "learning_rate": 0.01}
DIVERGENCE = "data/calibration_divergence-llama.jsonl"
SAMPLED, MIXED = "data/calibration_self-llama.jsonl", f"data/calibration_taskall-llama/{TASK}.jsonl"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study in all modes. The mode reconstruct is in it because another one starts from it."""
    study = Study(tmp_path_factory.mktemp("texts"))
    write(study.folder / "web.jsonl", [{"text": f"Page {number} has {number * 17} words."} for number in range(40)])
    grid = tiny_grid("llama", TASK, METHODS, sparsities=[0, 50], modes=[NEW, SECOND])
    masks = {"calibration": CALIBRATION, "sparsegpt_block": 16}
    sections = {"masks": masks, "reconstruction": RECONSTRUCTION, "evaluation": {"divergence": 3}}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, **sections)
    planned = study.planned("masks")
    made = {"sample_text": 1, "mix_texts": 1, "prepare_calibration": 1, "prepare_model": 1, "prepare_task": 1}
    assert planned == made | {"compute_masks": 2, "prune": 1, "compute_one_mask": 1, "masks": 1}
    fetched = {name: made[name] for name in made if name.startswith("prepare")}
    assert study.planned("prepare") == fetched | {"prepare_validation": 1, "prepare": 1}
    planned = study.planned()
    assert (planned["reconstruct_adapter"], planned["train_adapter"]) == (3, 1 + 3 * 2)
    study.snakemake("--cores", "2")
    assert study.planned() == {}
    return study


def test_the_masks_name_the_texts_that_they_looked_at(study):
    by_wanda = read_mask(study.folder / "masks/llama/masks_sparsity50_unstructured_wanda_on_self.pt").meta
    assert (by_wanda["text_sha256"], by_wanda["calibration_examples"]) == (sha256(study.folder / SAMPLED), 8)
    mixed = read_mask(study.folder / f"masks/llama/{TASK}/masks_sparsity50_unstructured_sparsegpt_on_taskall.pt").meta
    assert (mixed["text_sha256"], mixed["task"]) == (sha256(study.folder / MIXED), TASK)
    assert [part["windows"] for part in mixed["text_source"]["parts"]] == [4, 2]
    assert mixed["text_source"]["task_windows"] == 2
    run = RUN.format(FIRST).replace("unstructured", METHODS[1])
    assert study.json(f"{run}/evaluation.json")["inputs"]["calibration"] == [sha256(study.folder / SAMPLED)]


def test_every_run_is_sound_and_has_its_divergence_from_the_dense_model(study):
    rows = {(row["method"], row["mode"]): row for row in study.table()}
    assert rows.keys() - {("dense", "no_finetune"), ("dense", "sparse_to_dense")} == {
        (method, mode) for method in METHODS for mode in ("no_finetune", NEW, FIRST, SECOND)
    }
    for (method, mode), row in rows.items():
        assert row["status"] == "sound"
        record = study.json(f"results/runs/{row['run_id']}/evaluation.json")
        assert record["inputs"]["divergence"] == sha256(study.folder / DIVERGENCE)
        is_dense = (method, mode) == ("dense", "no_finetune")
        assert (record["divergence"] == 0) == is_dense
        assert (record["divergences"] == [0, 0, 0]) == is_dense
        assert float(row["divergence"]) == pytest.approx(record["divergence"])
        assert bool(row["train_loss"]) == (mode in (NEW, SECOND, "sparse_to_dense"))
        if mode == FIRST:
            assert 0 < float(row["reconstruction_error"]) < 1


def test_only_the_files_of_a_run_are_kept_and_no_merged_model(study):
    for folder in (study.folder / "results/runs").iterdir():
        trained = {"train.json", "adapter", "before_merge.json"} if "no_finetune" not in folder.name else set()
        names = {path.name for path in folder.iterdir()}
        assert names == {"merge.json", "validation_report.json", "evaluation.json"} | trained


def test_the_records_say_what_was_reconstructed_and_what_started_from_it(study):
    record, second = (study.json(f"{RUN.format(mode)}/train.json") for mode in (FIRST, SECOND))
    part = record["reconstruction"]
    text = sha256(study.folder / SAMPLED)
    assert (part["examples"], part["length"], part["text_sha256"], part["tokens"]) == (6, None, text, 6 * 16)
    for layer in part["layers"]:
        assert layer["error_after"] < layer["error_before"]
        assert len(layer["losses"]) == record["steps"] == 12
    assert second["inputs"]["initial_adapter"] == record["outputs"]["adapter"] != second["outputs"]["adapter"]
    assert study.json(f"{RUN.format(FIRST)}/merge.json")["as_trained"]
    for mode in (FIRST, SECOND):
        before, after = (study.json(f"{RUN.format(mode)}/{name}.json") for name in ("before_merge", "evaluation"))
        assert before["log_likelihoods"] == after["log_likelihoods"]


MADE_AGAIN = [
    ("length: 16", "length: 16\n      seed: 1", {"sample_text": 1, "mix_texts": 1, "compute_masks": 1, "prune": 1}),
    ("      - 2\n", "      - 4\n", {"mix_texts": 1, "prune": 1}),
]


@pytest.mark.parametrize(("windows", "sampled"), [(4, {"sample_text"}), (0, set())])
def test_another_number_of_windows_evaluates_again_and_trains_nothing(study, windows, sampled):
    with study.edited("divergence: 3", f"divergence: {windows}"):
        jobs = study.planned().keys()
    assert jobs >= {"evaluate_run", "merge_adapter", "analyze_results"} | sampled
    untouched = {"sample_text", "train_adapter", "evaluate_adapter", "compute_masks", "prune", "prepare_task"}
    assert jobs & untouched == sampled


@pytest.mark.parametrize(("old", "new", "jobs"), MADE_AGAIN)
def test_a_setting_makes_again_what_depends_on_it(study, old, new, jobs):
    with study.edited(old, new):
        assert study.planned("masks") == jobs | {"masks": 1}
