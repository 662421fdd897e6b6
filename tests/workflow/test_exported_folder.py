"""Test the exported folder: the merged model's logits, the hashes, and the model card with the results of the run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from box import RUNS, flags
from huggingface_hub import ModelCard
from project import call_script, succeed
from safetensors.torch import load_file
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.storage.hashes import sha256
from tiny_models import change_json
from transformers import AutoModelForCausalLM

IDS = torch.arange(3, 51).reshape(2, 24)
STRUCTURED, RANDOM = RUNS


@pytest.fixture(scope="module")
def box(tmp_path_factory, finished_runs) -> Path:
    """Return a folder with two exported runs. Their model comes from the hub, and states a licence."""
    box = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("exported") / "box"))
    (box / "models/prepared/README.md").write_text("---\nlicense: other\nlicense_name: tiny\n---\n")
    change_json(box / "models/prepared/manifest.json", source="hub:somebody/tiny@v1", revision="c0ffee")
    for run in RUNS:
        succeed("export_run.py", **flags(box, run, "export_run.py", box / "results/runs" / run))
    return box


def logits(folder: Path) -> torch.Tensor:
    """Return the logits of stock transformers, which must find every tensor in its shape and no other."""
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def folders(box: Path, run: str) -> tuple[Path, Path]:
    """Return the merged model and the exported folder of a run."""
    return box / "results/runs" / run / "model_dir", box / "results/runs" / run / "export"


def test_a_structured_run_is_exported_without_its_pruned_channels_and_with_the_same_logits(box):
    merged, exported = folders(box, STRUCTURED)
    ours, theirs = logits(exported), logits(merged)
    # Other sums in bfloat16, as in tests/pruning/test_compact.py.
    assert (ours - theirs).abs().max() < 1e-2 * theirs.abs().max()
    assert Checkpoint(exported).config["intermediate_size"] == 32
    assert json.loads((exported / "manifest.json").read_text())["why_not_smaller"] is None


def test_any_other_run_is_exported_as_it_is(box):
    merged, exported = folders(box, RANDOM)
    ours, theirs = load_file(exported / "model.safetensors"), load_file(merged / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name].view(torch.int16), theirs[name].view(torch.int16)) for name in ours)
    assert torch.equal(logits(exported), logits(merged))
    assert "only in part" in json.loads((exported / "manifest.json").read_text())["why_not_smaller"]


@pytest.mark.parametrize("run", RUNS)
def test_the_manifest_has_the_hash_of_every_file(box, run):
    _, exported = folders(box, run)
    manifest = json.loads((exported / "manifest.json").read_text())
    recorded = {name: entry["sha256"] for name, entry in (manifest["files"] | manifest["others"]).items()}
    files = {path.name for path in exported.iterdir()} - {"manifest.json", ".sparseft"}
    assert recorded == {name: sha256(exported / name) for name in files}
    # So the folder is a source of another study: its digest is checked as that of a prepared model.
    assert Checkpoint(exported).digest == manifest["digest"]


@pytest.mark.parametrize("run", RUNS)
def test_the_model_card_has_the_results_the_base_its_licence_and_the_proof(box, run):
    merged, exported = folders(box, run)
    card = ModelCard.load(exported / "README.md")
    evaluation = json.loads((merged.parent / "evaluation.json").read_text())
    proof = json.loads((merged.parent / "validation_report.json").read_text())
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    expected = {
        ("hellaswag_mini", name): value for name, value in evaluation["metrics"].items() if "_stderr" not in name
    }
    assert found == expected | {("hellaswag_mini", "eval_loss"): evaluation["eval_loss"]}
    assert (card.data.model_name, card.data.base_model) == (run, "somebody/tiny")
    assert (card.data.license, card.data.license_name) == ("other", "tiny")
    assert f"{proof['layers_checked']} of {proof['layers_expected']} layers, 0 violations" in card.text
    assert proof["inputs"]["mask"] in card.text


def test_a_base_that_states_no_licence_gives_none(tmp_path, finished_runs):
    succeed("export_run.py", **flags(finished_runs, RANDOM, "export_run.py", tmp_path))
    card = ModelCard.load(tmp_path / "export/README.md")
    assert (card.data.license, card.data.base_model) == (None, None)


def test_an_altered_file_is_not_sent(box, tmp_path):
    folder = Path(shutil.copytree(folders(box, STRUCTURED)[1], tmp_path / "export"))
    (folder / "README.md").write_text("another card")
    code, said = call_script("push_to_hub.py", export_dir=folder, repo_id="somebody/smaller", confirm=True)
    assert (code, "README.md: it is not the file that manifest.json records" in said) == (2, True)
