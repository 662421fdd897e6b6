"""ModelZoo's own Trainer, release 2.10.0, on its CPU backend, and its configuration before the wafer's compiler.

`make test-modelzoo` runs them.

The checkout is the user's: MODELZOO_HOME names it, MODELZOO_PYTHON its environment's python."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from project import ROOT, TINY_STUDY, Study, is_whole, tiny_grid
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import BY_NAME
from sparseft.data.rows import read_rows
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.mdl import MdlFile
from sparseft.models.language_model.batches import encode
from sparseft.models.language_model.loss import AnswerLoss, mean_answer_loss
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.validation import validate
from sparseft.storage.hashes import sha256
from sparseft.training.lora.adapter import read_adapter
from sparseft.training.lora.merge import merge
from sparseft.training.trainers.modelzoo.export import CHECKPOINT
from trainings import Inputs, make, trained

pytestmark = pytest.mark.skipif(
    not (os.environ.get("MODELZOO_HOME") and os.environ.get("MODELZOO_PYTHON")),
    reason="needs ModelZoo 2.10.0 (make test-modelzoo)",
)
LAYERS = 14
MODES = ("sparse_to_dense", "sparse_to_sparse", "full_sparse_to_sparse", "full_sparse_to_dense")


@pytest.fixture(scope="module", params=["llama", "mistral"])
def inputs(request, tmp_path_factory) -> Inputs:
    return make(tmp_path_factory.mktemp("inputs"), request.param)


@pytest.fixture(scope="module")
def records(inputs, tmp_path_factory) -> dict[str, tuple[Path, dict, dict]]:
    """Mode -> (run folder, ModelZoo's train.json, the torch backend's)."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        mode: (folder / mode, trained("train_modelzoo.py", inputs.modelzoo_flags(mode, folder / mode)),
               trained("train.py", inputs.flags(mode, folder / f"{mode}_torch")))
        for mode in MODES
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_training_is_the_torch_backends(records, mode):
    """But for AdamW's eps, which is added before the bias correction there."""
    _, ours, theirs = records[mode]
    pairs = zip(ours["loss_curve"], theirs["loss_curve"], strict=True)
    assert max(abs(one["loss"] - other["loss"]) for one, other in pairs) < 5e-4
    for counted in ("trainable_parameters", "updates", "tokens"):
        assert ours[counted] == theirs[counted]
    assert (ours["backend"], ours["device"], ours["dtype"]) == ("modelzoo", "CSX software backend on CPU", "float32")
    assert ours["loss_curve"][-1]["loss"] < ours["loss_curve"][0]["loss"] - 0.5


@pytest.mark.parametrize("mode", MODES)
def test_the_merged_model_is_sparse_and_has_the_loss_of_the_torch_backends(inputs, records, tmp_path, mode):
    folder = records[mode][0]
    base, mask = Checkpoint(inputs.folder / inputs.model), read_mask(inputs.folder / "mask.pt")
    losses = []
    for trained_folder, merged in ((folder, tmp_path / "merged"), (Path(f"{folder}_torch"), tmp_path / "torch")):
        merge(base, mask, sha256(inputs.folder / "mask.pt"), trained_folder / get_mode(mode).trains, merged)
        model, tokenizer = load_model(merged, torch.device("cpu"))
        task = BY_NAME["boolq_mini"]
        examples = encode(read_rows(inputs.folder / "data/validation.jsonl", task), task, tokenizer, 256)
        losses.append(mean_answer_loss(AnswerLoss(model), examples, 8, torch.device("cpu")))
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)
    report = validate(Checkpoint(tmp_path / "merged"), mask, base=base, lifts_mask=get_mode(mode).lifts_mask)
    assert (report["passed"], report["violations"], report["layers_checked"]) == (True, 0, LAYERS)
    if not get_mode(mode).is_full:
        assert all(B.any() for _, B in read_adapter(folder / "adapter", base).pairs.values())


def test_a_killed_training_goes_on_to_the_same_bits_and_its_checkpoint_keeps_masks_and_base(inputs, records, tmp_path):
    """The traps: lora_B is never masked, the base is in no optimizer, masks under trainer names survive a restart."""
    process = inputs.start("sparse_to_sparse", tmp_path)
    while process.poll() is None and not any(map(is_whole, (tmp_path / "modelzoo").glob("checkpoint_*.mdl"))):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (kept,) = (path for path in (tmp_path / "modelzoo").glob("checkpoint_*.mdl") if is_whole(path))
    trainer = MdlFile(kept)
    before = MdlFile(inputs.folder / "cs" / CHECKPOINT)
    masks = {key for key in trainer.tensors if key.startswith("model.") and key.endswith("_mask")}
    assert masks == {key for key in before.tensors if key.endswith("_mask")}
    assert len(masks) == LAYERS
    assert not [key for key in masks if "lora" in key]
    moments = [key for key in trainer.tensors if key.startswith("optimizer.state.") and key.endswith("exp_avg")]
    assert len(moments) == 2 * LAYERS  # A and B of every layer, and no base
    for key in masks:
        assert (trainer.read(trainer.tensors[key]) == before.read(before.tensors[key])).all()
    trainer.file.close()
    record = trained("train_modelzoo.py", inputs.modelzoo_flags("sparse_to_sparse", tmp_path))
    _, whole, _ = records["sparse_to_sparse"]
    assert record["resumed_after_steps"] == [int(kept.stem.split("_")[1])]
    assert (record["loss_curve"], record["outputs"]) == (whole["loss_curve"], whole["outputs"])
    assert not list(tmp_path.rglob("*.mdl"))


# Beside a trained weight, AdamW's two moments are sparse. A lifted mask declares nothing.
@pytest.mark.parametrize(("mode", "declared"), list(zip(MODES, [LAYERS, LAYERS, 3 * LAYERS, 0], strict=True)))
def test_the_configuration_lowers_with_every_layer_declared_sparse(inputs, tmp_path, mode, declared):
    from test_trainer_files import run_of

    run = run_of(inputs, tmp_path, mode, target="CSX")
    run.write(tmp_path / "trainer.yaml")
    home = os.environ["MODELZOO_HOME"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "lib"), f"{home}/src"])}
    script = ROOT / "workflow/scripts/run_modelzoo.py"
    command = [os.environ["MODELZOO_PYTHON"], script, tmp_path / "trainer.yaml", "--validate_only"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Compile validated locally" in done.stdout + done.stderr
    (graph,) = {path.resolve() for path in run.model_dir.rglob("cirh.mlir")}
    assert graph.read_text().count("cs.sparsity = 5.0") == declared


def test_the_whole_workflow_from_masks_to_tables(tmp_path, tiny_models):
    study = Study(tmp_path / "a folder with spaces")
    cells = {**tiny_grid("llama", "boolq_mini", ["unstructured"]), "sparsities": [0, 50]}
    study.configure({"llama": tiny_models["llama"]}, grid=cells, backend="modelzoo",
                    cerebras={"target": "CPU", "sequence_length": 128}, **TINY_STUDY)  # fmt: skip
    study.snakemake("results/analysis/summary.csv", "--cores", "2")
    rows = {row["run_id"]: row for row in study.table()}
    assert len(rows) == 5
    for run_id in rows:
        proof = json.loads((study.folder / f"results/runs/{run_id}/validation_report.json").read_text())
        assert (proof["passed"], proof["violations"], proof["layers_checked"]) == (True, 0, LAYERS)
    trainings = [json.loads(path.read_text()) for path in study.folder.glob("results/runs/*/train.json")]
    assert {record["backend"] for record in trainings} == {"modelzoo"}
    assert len({record["outputs"]["adapter"] for record in trainings}) == 3
    assert list(study.folder.rglob("*.mdl")) == []
    assert study.planned("results/analysis/summary.csv") == {}
