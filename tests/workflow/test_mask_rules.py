"""Masks of every kind through the workflow: on a task, on texts, and of another tool.

The model samples one text, and a mixture has parts of it, of a file and of the task's examples. The divergence of every
run is measured on another text that the model samples."""

import shutil
from pathlib import Path

import pytest
from hub_cache import write
from project import Study, tiny_grid
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.layers import prunable_shapes
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.storage.hashes import sha256
from tiny_models import edited

pytestmark = pytest.mark.slow
TASK = "hellaswag_mini"
ON_SELF, ON_MIXTURE = "unstructured_wanda_on_self", "unstructured_sparsegpt_on_taskall"
# The folder of a method's masks and of its pruned base.
PLACES = {"unstructured": "", "unstructured_owl": f"{TASK}/", ON_SELF: "", ON_MIXTURE: f"{TASK}/", "imported_half": ""}
NEW, FIRST, SECOND = "sparse_to_sparse", "reconstruct", "reconstruct_to_sparse"
SAMPLED, MIXED = "data/calibration_self-llama.jsonl", f"data/calibration_taskall-llama/{TASK}.jsonl"
MASKS = {
    "calibration_examples": 4,
    "owl_m": 2.0,
    "sparsegpt_block": 16,
    "calibration": {
        "self": {"text": "self", "examples": 8, "length": 16},
        "web": {"text": "web.jsonl"},
        "taskall": {"text": ["self", "task", "web"], "shares": [2, 1, 1], "examples": 8, "length": 12},
    },
    "imported": {"half": {50: "path:sparse", 75: "path:sparse"}},
}
RECONSTRUCTION = {"calibration": "self", "examples": 6, "steps": 12, "batch_size": 3, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a finished study in all modes. The mode reconstruct is in it because another one starts from it."""
    study = Study(tmp_path_factory.mktemp("masks"))
    with edited(Path(shutil.copytree(tiny_models["llama"], study.folder / "sparse"))) as weights:
        for layer in prunable_shapes(Checkpoint(tiny_models["llama"])):
            weights[f"{layer}.weight"] *= 2
            weights[f"{layer}.weight"].view(-1)[::2] = 0
    write(study.folder / "web.jsonl", [{"text": f"Page {number} has {number * 17} words."} for number in range(40)])
    grid = tiny_grid("llama", TASK, list(PLACES), sparsities=[0, 50], modes=[NEW, SECOND])
    sections = {"masks": MASKS, "reconstruction": RECONSTRUCTION, "evaluation": {"divergence": 3}}
    study.configure({"llama": tiny_models["llama"]}, grid=grid, **sections)
    fetched = dict.fromkeys(("prepare_model", "prepare_task", "prepare_calibration"), 1)
    made = fetched | {"sample_text": 1, "mix_texts": 1, "compute_one_mask": 1, "compute_masks": 3, "prune": 1}
    assert study.planned("masks") == made | {"import_pruned": 1, "masks": 1}
    assert study.planned("prepare") == fetched | {"prepare_validation": 1, "prepare": 1}
    planned = study.planned()
    assert (planned["reconstruct_adapter"], planned["train_adapter"]) == (5, 1 + 5 * 2)
    study.snakemake("--cores", "2")
    assert study.planned() == {}
    return study


def run(method: str, mode: str = "no_finetune") -> str:
    return f"results/runs/llama-{TASK}-{method}-sparsity50-{mode}-seed0"


def mask_of(study: Study, method: str) -> Path:
    return study.folder / f"masks/llama/{PLACES[method]}masks_sparsity50_{method}.pt"


def base_of(study: Study, method: str) -> Checkpoint:
    return Checkpoint(study.folder / f"pruned/llama/{PLACES[method]}sparsity50_{method}")


def test_every_mask_is_in_its_place_and_names_what_it_looked_at(study):
    texts = {ON_SELF: sha256(study.folder / SAMPLED), ON_MIXTURE: sha256(study.folder / MIXED)}
    for method, place in PLACES.items():
        meta = read_mask(mask_of(study, method)).meta
        assert (meta["reached"], meta.get("task")) == (0.5, TASK if place else None)
        examples = {"unstructured_owl": 4, ON_SELF: 8, ON_MIXTURE: 8}.get(method)
        assert (meta.get("calibration_examples"), meta.get("text_sha256")) == (examples, texts.get(method))
    source = read_mask(mask_of(study, ON_MIXTURE)).meta["text_source"]
    assert ([part["windows"] for part in source["parts"]], source["task_windows"]) == ([4, 2], 2)
    assert study.json(f"{run(ON_SELF, FIRST)}/evaluation.json")["inputs"]["calibration"] == [texts[ON_SELF]]
    report = study.json(f"masks/llama/{TASK}/report_unstructured_owl.json")
    assert [part["asked_percent"] for part in report["sparsities"]] == [0, 50]


@pytest.mark.parametrize("method", [ON_MIXTURE, "imported_half"])
def test_the_runs_start_from_the_pruned_base_and_name_it(study, method):
    base, meta = base_of(study, method), read_mask(mask_of(study, method)).meta
    assert (meta["base"], meta["original"]) == (base.digest, Checkpoint(study.folder / "models/llama").digest)
    report = study.json(f"{run(method)}/validation_report.json")
    assert (report["passed"], report["violations"], report["inputs"]["base"]) == (True, 0, base.digest)
    merge = study.json(f"{run(method)}/merge.json")
    assert merge["inputs"]["model"] == base.digest
    # Without a training, the merged model has the weights of the pruned base.
    assert merge["outputs"]["model.safetensors"] == sha256(base.files[0])


def test_an_imported_checkpoint_is_the_pruned_base_and_is_trained_and_proved(study):
    base, sparse = base_of(study, "imported_half"), Checkpoint(study.folder / "sparse")
    assert all((base.read(name) == sparse.read(name)).all() for name in sparse.tensors)
    report = study.json(f"{run('imported_half', NEW)}/validation_report.json")
    assert (report["passed"], report["mask"]["inferred"]) == (True, True)


def test_every_run_is_sound_and_has_its_divergence_from_the_dense_model(study):
    rows = {(row["method"], row["mode"]): row for row in study.table()}
    assert rows.keys() - {("dense", "no_finetune"), ("dense", "sparse_to_dense")} == {
        (method, mode) for method in PLACES for mode in ("no_finetune", NEW, FIRST, SECOND)
    }
    for (method, mode), row in rows.items():
        assert row["status"] == "sound"
        record = study.json(f"results/runs/{row['run_id']}/evaluation.json")
        assert record["inputs"]["divergence"] == sha256(study.folder / "data/calibration_divergence-llama.jsonl")
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
    first, second = (run("unstructured", mode) for mode in (FIRST, SECOND))
    record, following = (study.json(f"{place}/train.json") for place in (first, second))
    part, text = record["reconstruction"], sha256(study.folder / SAMPLED)
    assert (part["examples"], part["length"], part["text_sha256"], part["tokens"]) == (6, None, text, 6 * 16)
    for layer in part["layers"]:
        assert layer["error_after"] < layer["error_before"]
        assert len(layer["losses"]) == record["steps"] == 12
    assert following["inputs"]["initial_adapter"] == record["outputs"]["adapter"] != following["outputs"]["adapter"]
    assert study.json(f"{first}/merge.json")["as_trained"]
    for place in (first, second):
        before, after = (study.json(f"{place}/{name}.json") for name in ("before_merge", "evaluation"))
        assert before["log_likelihoods"] == after["log_likelihoods"]


MADE_AGAIN = [
    ("- 50", "- 50\n  - 75", {"compute_one_mask": 3, "prune": 1, "import_pruned": 1}),
    ("calibration_examples: 4", "calibration_examples: 5", {"compute_masks": 1}),
    ("owl_m: 2.0", "owl_m: 3.0", {"compute_masks": 1}),
    ("sparsegpt_block: 16", "sparsegpt_block: 8", {"prune": 1}),
    ("length: 16", "length: 16\n      seed: 1", {"sample_text": 1, "mix_texts": 1, "compute_masks": 1, "prune": 1}),
    ("      - 2\n", "      - 4\n", {"mix_texts": 1, "prune": 1}),
]


@pytest.mark.parametrize(("old", "new", "jobs"), MADE_AGAIN)
def test_a_setting_makes_the_masks_again_that_depend_on_it(study, old, new, jobs):
    with study.edited(old, new):
        assert study.planned("masks") == jobs | {"masks": 1}


@pytest.mark.parametrize(("windows", "sampled"), [(4, {"sample_text"}), (0, set())])
def test_another_number_of_windows_evaluates_again_and_trains_nothing(study, windows, sampled):
    with study.edited("divergence: 3", f"divergence: {windows}"):
        jobs = study.planned().keys()
    assert jobs >= {"evaluate_run", "merge_adapter", "analyze_results"} | sampled
    untouched = {"sample_text", "train_adapter", "evaluate_adapter", "compute_masks", "prune", "prepare_task"}
    assert jobs & untouched == sampled


def test_more_held_out_windows_of_a_sampled_task_prepare_no_training_row_again(tmp_path, tiny_models):
    texts = {"own": {"text": "self", "examples": 4, "length": 16, "together": 4}}
    study = Study(tmp_path).configure(
        {"llama": tiny_models["llama"]},
        tasks={"mine": {"kind": "text", "text": "own", "validation_examples": 4}},
        masks={"calibration": texts},
        grid=tiny_grid("llama", "mine"),
    )
    files = [f"data/mine-llama/{name}.json" for name in ("manifest", "validation_manifest")]
    study.snakemake(*files, "--cores", "2")
    with study.edited("validation_examples: 4", "validation_examples: 6"):
        assert study.planned(*files) == {"sample_text": 1, "prepare_validation": 1}
        study.snakemake(*files, "--cores", "2")
        assert study.planned(*files) == {}


def test_an_import_of_the_model_itself_has_no_source_and_names_its_pattern(tmp_path, tiny_models):
    model = Path(shutil.copytree(tiny_models["llama"], tmp_path / "sparse"))
    masks = {"imported": {"own": {50: f"path:{model}"}}, "imported_pattern": {"own": "2:4"}}
    grid = tiny_grid("llama", TASK, ["imported_own"], sparsities=[50])
    study = Study(tmp_path).configure({"llama": model}, grid=grid, masks=masks)
    (command,) = [line for line in study.commands("masks") if "import_pruned.py" in line]
    assert "--pattern 2:4" in command and "--source" not in command


def test_an_imported_checkpoint_that_changed_is_imported_again(study, tmp_path):
    copy = Study(Path(shutil.copytree(study.folder, tmp_path / "copy")))
    with edited(copy.folder / "sparse") as weights:
        weights["model.norm.weight"] *= 2
    assert copy.planned("masks") == {"import_pruned": 1, "masks": 1}
