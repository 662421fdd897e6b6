"""ModelZoo's checkpoints through the scripts and the workflow: .mdl in, .mdl out, and bad ones in one line."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from project import ROOT, TINY_STUDY, Study, read_record, refused, succeed, tiny_grid
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.trainers.modelzoo.export import CHECKPOINT, CONFIGURATION
from tiny_models import change_json

MASK = "masks_sparsity50_unstructured.pt"


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_models) -> Path:
    """A folder with the tiny LLaMA's masks, and cs/, its masked export; read only."""
    folder = tmp_path_factory.mktemp("modelzoo")
    model = tiny_models["llama"]
    succeed("compute_masks.py", model_path=model, output_dir=folder, sparsity=0.5, method="unstructured")
    succeed("export_modelzoo.py", model_path=model, mask_path=folder / MASK, output_dir=folder / "cs")
    return folder


@pytest.fixture
def box(tmp_path, made) -> Path:
    return Path(shutil.copytree(made, tmp_path / "box"))


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


def forget_tokenizer(file: Path) -> None:
    for tokenizer in file.parent.glob("tokenizer*"):
        tokenizer.unlink()


MASKED = {"model_path": "{file}", "output_dir": "{box}/out", "sparsity": 0.5}


@pytest.mark.parametrize(("damage", "script", "flags", "line"), [
    (lambda file: file.write_bytes(file.read_bytes()[:-1]), "compute_masks.py",
     MASKED | {"method": "unstructured"}, "{file}: truncated"),
    (lambda file: change_json(file.parent / "config.json", intermediate_size=64), "validate_sparsity.py",
     {"checkpoint": "{file}", "mask_path": f"{{box}}/{MASK}", "output": "{box}/report.json"},
     "{file}: .*transformer_decoder.layers.0.ffn.ffn.0.linear_layer.weight"),
    (forget_tokenizer, "prepare_model.py", {"source": "mdl:{file}", "output_dir": "{box}/out"},
     "{box}/cs: no tokenizer; "),
    # Methods that run the model need a prepared one.
    (None, "compute_masks.py", MASKED | {"method": "unstructured_wanda", "task": "boolq_mini", "data_dir": "{box}"},
     ".*prepare_model.py --source mdl:{file}"),
])  # fmt: skip
def test_a_bad_file_is_one_line_wherever_it_is_read(box, damage, script, flags, line):
    file = box / "cs" / CHECKPOINT
    if damage:
        damage(file)
    filled = {name: str(value).format(file=file, box=box) for name, value in flags.items()}
    assert re.match(f"error: {line.format(file=file, box=box)}", refused(box, script, **filled))


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
