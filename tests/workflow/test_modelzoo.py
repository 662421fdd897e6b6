"""ModelZoo's checkpoints through the scripts and the workflow: .mdl in, .mdl out, and bad ones in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import yaml
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.grid import TASK_AWARE
from sparseft.modelzoo.export import CHECKPOINT, CONFIGURATION
from study import ROOT, TINY_STUDY, Study, run_script, tiny_grid
from test_cli_errors import refused
from tiny_models import change_json

MASK = "masks_sparsity50_unstructured.pt"


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_models) -> Path:
    """A folder with the tiny LLaMA's masks, and cs/, its masked export; read only."""
    folder = tmp_path_factory.mktemp("modelzoo")
    flags = ["--sparsity", "0.5", "--method", "unstructured"]
    assert not run_script(
        "compute_masks.py", "--model_path", tiny_models["llama"], "--output_dir", folder, *flags
    ).returncode
    flags = ["--mask_path", folder / MASK, "--output_dir", folder / "cs"]
    assert not run_script("export_modelzoo.py", "--model_path", tiny_models["llama"], *flags).returncode
    return folder


@pytest.fixture
def box(tmp_path, made) -> Path:
    return Path(shutil.copytree(made, tmp_path / "box"))


def test_an_export_is_a_checkpoint_a_configuration_and_their_records(made, tiny_models):
    report = json.loads((made / "cs/export.json").read_text())
    assert report["inputs"]["model"] == Checkpoint(tiny_models["llama"]).digest
    assert report["mask"]["reached"] == 0.5
    assert set(report["outputs"]) == {CHECKPOINT, CONFIGURATION}
    section = yaml.safe_load((made / "cs" / CONFIGURATION).read_text())["model"]
    asked = {"name": "llama", "hidden_size": 32, "num_heads": 4, "filter_size": 48, "rotary_dim": 8,
             "attention_module": "multiquery_attention", "extra_attention_params": {"num_kv_groups": 2},
             "share_embedding_weights": True, "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0}  # fmt: skip
    assert asked.items() <= section.items()


def test_a_masked_export_is_proved_sparse(made, tiny_models, tmp_path):
    flags = ["--mask_path", made / MASK, "--base", tiny_models["llama"], "--output", tmp_path / "report.json"]
    done = run_script("validate_sparsity.py", "--checkpoint", made / "cs" / CHECKPOINT, *flags)
    assert (done.returncode, done.stderr) == (
        0,
        "passed: 14 of 14 layers checked, 0 violations, largest pruned weight 0.\n",
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["actual_sparsity"], report["tensors_outside_checked"]) == (0.5, 6)
    others = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(report["inputs"]["checkpoint"]) == {CHECKPOINT} | others


def test_the_report_cannot_take_the_place_of_the_checkpoint(box, tmp_path):
    file = box / "cs" / CHECKPOINT
    call = ("validate_sparsity.py", "--checkpoint", file, "--mask_path", box / MASK, "--output", file)
    assert "is an input, or lies in one; name another place" in refused(box, *call)
    shutil.move(file, tmp_path / "alone.mdl")
    call = ("validate_sparsity.py", "--checkpoint", f"{tmp_path}/alone.mdl@{box}/cs", "--mask_path", box / MASK,
            "--output", tmp_path / "alone.mdl")  # fmt: skip
    assert "is an input, or lies in one; name another place" in refused(tmp_path, *call)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def unmark(file: Path) -> None:
    with h5py.File(file, "a") as opened:
        del opened.attrs["__SUCCESS__"]


def add_pickle(file: Path) -> None:
    key = "model.model.extra"
    with h5py.File(file, "a") as opened:
        opened.attrs[f"{key}.__metadata__"] = json.dumps({f"{key}.__metadata__": {"__BYTES__": True}})


def widen(file: Path) -> None:
    change_json(file.parent / "config.json", intermediate_size=64)


BAD = {
    truncate: "truncated, or not an .mdl file (",
    unmark: "partly written: __SUCCESS__ is not set; take a checkpoint that is complete",
    add_pickle: "model.model.extra is a pickled object, which could run code and is not opened; save the file again without it",
    widen: "6 tensors of another shape (first: transformer_decoder.layers.0.ffn.ffn.0.linear_layer.weight); give its own",
}


@pytest.mark.parametrize("damage", BAD)
def test_a_bad_file_is_one_line_wherever_it_is_read(box, damage):
    file = box / "cs" / CHECKPOINT
    damage(file)
    out = ("--output_dir", box / "out")
    for call in (
        ("compute_masks.py", "--model_path", file, *out, "--sparsity", 0.5, "--method", "unstructured"),
        ("validate_sparsity.py", "--checkpoint", file, "--mask_path", box / MASK, "--output", box / "report.json"),
        ("prepare_model.py", "--source", f"mdl:{file}", *out),
    ):
        line = refused(box, *call)
        assert line.startswith(f"error: {file}: ")
        assert BAD[damage] in line


def test_a_file_without_a_tokenizer_beside_it_is_not_prepared(box):
    for tokenizer in (box / "cs").glob("tokenizer*"):
        tokenizer.unlink()
    line = refused(box, "prepare_model.py", "--source", f"mdl:{box}/cs/{CHECKPOINT}", "--output_dir", box / "out")
    assert line == f"error: {box}/cs: no tokenizer; name the model's Hugging Face folder: mdl:FILE.mdl@FOLDER"


def test_methods_that_run_the_model_ask_for_a_prepared_one(box):
    file = box / "cs" / CHECKPOINT
    call = ("compute_masks.py", "--model_path", file, "--output_dir", box / "out", "--sparsity", 0.5, "--method",
            "unstructured_wanda", "--task", "boolq_mini", "--data_dir", box)  # fmt: skip
    assert f"prepare_model.py --source mdl:{file}, then give that folder" in refused(box, *call)


def test_an_export_into_its_own_model_is_refused(box):
    line = refused(box, "export_modelzoo.py", "--model_path", box / "cs", "--output_dir", box / "cs")
    assert line == f"error: {box}/cs is an input, or lies in one; name another place"


def test_a_disk_that_is_full_leaves_no_export(tmp_path, tiny_models):
    script = ROOT / "workflow/scripts/export_modelzoo.py"
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [
        sys.executable,
        "-c",
        limited,
        script,
        "--model_path",
        tiny_models["llama"],
        "--output_dir",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2, "error: File too large; check the path, its permissions and the free space\n"
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_an_mdl_source_has_the_masks_of_its_original(tmp_path, made, tiny_models):
    """Those that look at the task run the model: the prepared one. The .mdl file is the pruned model's."""
    study = Study(tmp_path / "study")
    file = Path(shutil.copytree(made / "cs", tmp_path / "cs")) / CHECKPOINT
    merged = ["--mask_path", made / MASK, "--output_dir", tmp_path / "hf", "--report", tmp_path / "merge.json"]
    assert not run_script("merge.py", "--model_path", tiny_models["llama"], *merged).returncode
    grid = tiny_grid("hf", "boolq_mini", [f"unstructured_{name}" for name in TASK_AWARE])
    study.configure({"hf": tmp_path / "hf"}, grid=grid, masks={"calibration_examples": 4}, **TINY_STUDY)
    content = yaml.safe_load((study.folder / "study.yaml").read_text())
    content["models"]["mdl"] = {"source": f"mdl:{file}"}
    content["grid"] |= {"models": ["hf", "mdl"], "sparsities": [50]}
    (study.folder / "study.yaml").write_text(yaml.safe_dump(content))
    study.snakemake("masks")
    masks = [path.relative_to(study.folder / "masks/hf") for path in (study.folder / "masks/hf").rglob("*.pt")]
    assert len(masks) == 3
    for mask in masks:
        assert (study.folder / "masks/hf" / mask).read_bytes() == (study.folder / "masks/mdl" / mask).read_bytes()
    file.write_bytes(b"another")
    assert study.planned("models/mdl/manifest.json") == {"prepare_model": 1}


def test_the_sweep_is_planned_with_an_export_a_mask(tmp_path):
    study = Study(tmp_path)
    merged = {}
    for name in ("sweep", "modelzoo"):
        merged |= yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(merged))
    planned = study.planned()
    assert (planned["export_checkpoint"], planned["train_adapter"]) == (56, 330)
    merged["grid"] = {**merged["grid"], "methods": ["unstructured_wanda"]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(merged))
    planned = study.planned()
    assert (planned["export_checkpoint"], planned["export_task_checkpoint"]) == (2, 54)
