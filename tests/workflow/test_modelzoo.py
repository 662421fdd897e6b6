"""ModelZoo's checkpoints through the scripts and the workflow: .mdl in, .mdl out, and bad ones in one line."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from project import ROOT, TINY_STUDY, Study, read_record, refused, succeed, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.trainers.modelzoo.export import CHECKPOINT, CONFIGURATION

MASK = "masks_sparsity50_unstructured.pt"


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_models) -> Path:
    """A folder with the tiny LLaMA's masks, and cs/, its masked export; read only."""
    folder = tmp_path_factory.mktemp("modelzoo")
    model = tiny_models["llama"]
    succeed("compute_masks.py", model_path=model, output_dir=folder, sparsity=0.5, method="unstructured")
    succeed("export_modelzoo.py", model_path=model, mask_path=folder / MASK, output_dir=folder / "cs")
    return folder


def test_an_export_is_a_checkpoint_a_configuration_and_their_records(made, tiny_models):
    report = read_record(made / "cs/export.json")
    assert report["inputs"]["model"] == Checkpoint(tiny_models["llama"]).digest
    assert report["mask"]["reached"] == 0.5
    assert set(report["outputs"]) == {CHECKPOINT, CONFIGURATION}
    section = yaml.safe_load((made / "cs" / CONFIGURATION).read_text())["model"]
    asked = {"name": "llama", "hidden_size": 32, "num_heads": 4, "filter_size": 48, "rotary_dim": 8,
             "attention_module": "multiquery_attention", "extra_attention_params": {"num_kv_groups": 2},
             "share_embedding_weights": True, "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0}  # fmt: skip
    assert asked.items() <= section.items()


@pytest.mark.parametrize(("is_cut", "method", "line"), [
    (True, "unstructured", "{file}: truncated"),
    # Methods that run the model need a prepared one.
    (False, "unstructured_wanda", ".*prepare_model.py --source mdl:{file}"),
])  # fmt: skip
def test_a_bad_file_is_one_line(tmp_path, made, is_cut, method, line):
    box = Path(shutil.copytree(made, tmp_path / "box"))
    file = box / "cs" / CHECKPOINT
    file.write_bytes(file.read_bytes()[: -1 if is_cut else None])
    data = {} if is_cut else {"task": "boolq_mini", "data_dir": box}
    output = refused(
        box, "compute_masks.py", model_path=file, output_dir=box / "out", sparsity=0.5, method=method, **data
    )
    assert re.match(f"error: {line.format(file=file)}", output)


def test_a_study_is_planned_with_an_export_per_mask(tmp_path, tiny_models):
    settings = yaml.safe_load((ROOT / "config/modelzoo.yaml").read_text())
    settings["cerebras"]["sequence_length"] = 256
    settings["training"] = TINY_STUDY["training"] | settings["training"]
    study = Study(tmp_path).configure(
        {"llama": tiny_models["llama"]}, grid=tiny_grid("llama", "boolq_mini"), **settings
    )
    planned = study.planned()
    # Three methods at two sparsities, and the dense model.
    assert (planned["export_checkpoint"], planned["train_adapter"]) == (7, 13)
