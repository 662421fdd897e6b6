"""Test the exported folder, and the check of engines with it."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from box import RUNS, flags
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from project import call_script, program, read_record, refused, succeed
from safetensors.torch import load_file, save_file
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.checkpoints.model_source import prepare_model
from sparseft.models.checkpoints.settings import Model
from sparseft.storage.hashes import sha256
from tiny_models import change_json, loaded

IDS = torch.arange(3, 51).reshape(2, 24)
STRUCTURED, RANDOM = RUNS
TERMS = ("LICENSE.txt", "NOTICE", "USE_POLICY.md")


@pytest.fixture(scope="module")
def box(tmp_path_factory, finished_runs) -> Path:
    """Return a folder with two exported runs. Their model comes from the hub, and states a licence."""
    box = Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("exported") / "box"))
    source = Path(shutil.copytree(box / "models/tiny", box / "source"))
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.2\nlicense_link: LICENSE\n---\n")
    for name in TERMS:
        (source / name).write_text(f"the text of {name}")
    shutil.rmtree(box / "models/prepared")
    prepare_model(Model(source=f"path:{source}"), box / "models/prepared")
    change_json(box / "models/prepared/manifest.json", source="hub:somebody/tiny@v1", revision="c0ffee")
    for run in RUNS:
        succeed("export_run.py", **flags(box, run, "export_run.py", box / "results/runs" / run))
    return box


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return loaded(folder)(IDS).logits.float()


def folders(box: Path, run: str) -> tuple[Path, Path]:
    return box / "results/runs" / run / "model_dir", box / "results/runs" / run / "export"


def test_a_structured_run_is_exported_without_its_pruned_channels_and_with_the_same_logits(box):
    merged, exported = folders(box, STRUCTURED)
    ours, theirs = logits(exported), logits(merged)
    # Other sums in bfloat16, as in tests/pruning/test_compact.py.
    assert (ours - theirs).abs().max() < 1e-2 * theirs.abs().max()
    assert Checkpoint(exported).config["intermediate_size"] == 32
    assert read_record(exported / "manifest.json")["why_not_smaller"] is None


def test_any_other_run_is_exported_as_it_is(box):
    merged, exported = folders(box, RANDOM)
    assert Checkpoint(exported).hashes() == Checkpoint(merged).hashes()
    assert torch.equal(logits(exported), logits(merged))
    assert "only in part" in read_record(exported / "manifest.json")["why_not_smaller"]


def test_the_manifest_has_the_hash_of_every_file_but_the_card_and_the_terms_of_the_base_come_along(box):
    _, exported = folders(box, STRUCTURED)
    manifest = read_record(exported / "manifest.json")
    recorded = {name: entry["sha256"] for name, entry in (manifest["files"] | manifest["others"]).items()}
    files = {path.name for path in exported.iterdir()} - {"README.md", "manifest.json"}
    assert recorded == {name: sha256(exported / name) for name in files}
    # So the folder is a source of another study: its digest is checked as that of a prepared model.
    assert Checkpoint(exported).digest == manifest["digest"]
    assert {name: (exported / name).read_text() for name in TERMS} == {name: f"the text of {name}" for name in TERMS}


def test_the_model_card_has_the_results_the_base_its_licence_the_proof_and_what_the_files_leave_out(box):
    merged, exported = folders(box, STRUCTURED)
    card = ModelCard.load(exported / "README.md")
    evaluation = read_record(merged.parent / "evaluation.json")
    proof = read_record(merged.parent / "validation_report.json")
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    measured = evaluation["metrics"] | {"eval_loss": evaluation["eval_loss"]}
    assert found == {("hellaswag_mini", name): value for name, value in measured.items() if "_stderr" not in name}
    assert (card.data.model_name, card.data.base_model) == (f"Llama-{STRUCTURED}", "somebody/tiny")
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", "llama3.2", "LICENSE")
    # As far as huggingface_hub validates a card without the hub.
    assert ModelCardData(**card.data.to_dict()).to_dict() == card.data.to_dict()
    validate_repo_id(f"somebody/{card.data.model_name}")
    assert f"{proof['layers_checked']} of {proof['layers_expected']} layers, 0 violations" in card.text
    assert proof["inputs"]["mask"] in card.text
    assert "The pruned channels and heads, all of them zero, are left out: " in card.text


def test_a_merged_model_has_the_terms_of_its_base(box, tmp_path):
    (box / "models/tiny/LICENSE").write_text("the text of LICENSE")
    succeed("merge.py", **flags(box, RANDOM, "merge.py", tmp_path))
    assert (tmp_path / "model_dir/LICENSE").read_text() == "the text of LICENSE"
    assert Checkpoint(tmp_path / "model_dir").hashes() == Checkpoint(folders(box, RANDOM)[0]).hashes()


def test_a_notice_is_written_if_the_base_has_none_and_its_licence_wants_one(box, tmp_path):
    given = flags(box, RANDOM, "export_run.py", tmp_path)
    source = shutil.copytree(box / "source", tmp_path / "source", ignore=shutil.ignore_patterns("NOTICE"))
    prepare_model(Model(source=f"path:{source}"), tmp_path / "prepared")
    succeed("export_run.py", **given | {"model_path": tmp_path / "prepared"})
    assert (tmp_path / "export/Notice").read_text().startswith("Llama 3.2 is licensed under the Llama 3.2 Community ")
    assert "Notice" in read_record(tmp_path / "export/manifest.json")["others"]


def zero_the_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"})


# So few that an engine needs only seconds.
FEW = {"prompts": 1, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1}


@pytest.mark.parametrize(("script", "flag", "change", "fault"), [
    ("export_run.py", "model_path", lambda base: (base / "NOTICE").write_text("another text"),
     "NOTICE: not the file that manifest.json records"),
    ("export_run.py", "model_path", lambda base: (base / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n"),
     "README.md: the licence of the dense model (by-nd) forbids"),
    ("export_run.py", "model_path", lambda base: change_json(base / "manifest.json", digest="0" * 64),
     "not the dense model of the run's mask"),
    ("check_engines.py", "export_dir", zero_the_weights, "export: not the model that"),
    ("check_engines.py", "model_path", zero_the_weights, "prepared: not the model that"),
])  # fmt: skip
def test_another_model_and_one_whose_terms_changed_or_forbid_it_are_refused(box, tmp_path, script, flag, change, fault):
    given = flags(box, RANDOM, script, tmp_path)
    given |= {"export_dir": folders(box, RANDOM)[1]} | FEW if script == "check_engines.py" else {}
    other = Path(shutil.copytree(given[flag], tmp_path / given[flag].name))
    change(other)
    assert fault in refused(tmp_path, script, **given | {flag: other})


@pytest.mark.parametrize(("script", "flag", "fault"), [
    ("export_run.py", "mask_path", "not the mask of the run's proof"),
    ("check_engines.py", "run_id", f"the export of {RANDOM}, not of {STRUCTURED}"),
])  # fmt: skip
def test_the_mask_and_the_export_of_another_run_are_refused(box, tmp_path, script, flag, fault):
    given, other = (flags(box, run, script, tmp_path) for run in (RANDOM, STRUCTURED))
    given |= {"export_dir": folders(box, RANDOM)[1]} | FEW if script == "check_engines.py" else {}
    assert fault in refused(tmp_path, script, **given | {flag: other[flag]})


@pytest.mark.slow
def test_a_model_that_changes_while_it_is_measured_is_refused(box, tmp_path):
    export = Path(shutil.copytree(folders(box, RANDOM)[1], tmp_path / "export"))
    # It is changed by the first request that names a model.
    change = f'grep -q model "$4" && echo >> {export}/tokenizer_config.json'
    python = program(tmp_path / "python", f'#!/bin/sh\n{change}\nexec {sys.executable} "$@"\n')
    given = flags(box, RANDOM, "check_engines.py", tmp_path) | FEW | {"engines": f"transformers:{python}"}
    code, output = call_script("check_engines.py", **given)
    assert (code, "export: not the model that" in output) == (2, True), output
    assert not (tmp_path / "engines.json").exists()


def test_a_licence_that_the_user_states_is_that_of_the_card(box, tmp_path):
    given = flags(box, RANDOM, "export_run.py", tmp_path)
    base = shutil.copytree(given["model_path"], tmp_path / "prepared")
    (base / "README.md").write_text("---\nlicense: [mit]\n---\n")
    assert "export.license" in refused(tmp_path, "export_run.py", **given | {"model_path": base})
    succeed("export_run.py", **given | {"model_path": base, "license": "mit"})
    assert ModelCard.load(tmp_path / "export/README.md").data.license == "mit"


def test_no_exported_file_says_where_files_lie_on_this_machine(finished_runs, tmp_path):
    succeed("export_run.py", **flags(finished_runs, RANDOM, "export_run.py", tmp_path))
    exported = tmp_path / "export"
    assert read_record(exported / "manifest.json")["source"] == "path:tiny"
    assert "This is `path:tiny`, " in (exported / "README.md").read_text()
    for path in exported.iterdir():
        assert str(finished_runs).encode() not in path.read_bytes(), path.name


@pytest.mark.slow
def test_a_run_is_exported_and_its_engines_are_checked_when_they_are_the_target(own_study):
    asked = "{prompts: 2, prompt_tokens: 16, new_tokens: 4, repeats: 2"
    export = f"export: {asked}, engines: ['transformers:{sys.executable}']}}"
    run = "results/runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_sparse-seed0"
    target = f"{run}/engines.json"
    with own_study.edited("keep_merged: true", f"keep_merged: true\n{export}"):
        assert not {"export_run", "check_engines"} & own_study.planned().keys()
        assert own_study.planned(target) == {"export_run": 1, "check_engines": 1}
        own_study.snakemake(target)
        record = own_study.json(target)
        one_repeat = [("transformers", "dense"), ("transformers", "run")]
        assert [(one["engine"], one["model"]) for one in record["results"]] == 2 * one_repeat
        assert (record["passed"], record["threads"], record["new_tokens"]) == (True, 1, 4)
        assert record["inputs"]["export"] == Checkpoint(own_study.folder / run / "export").digest
        # Another model is measured anew when it is asked for.
        with own_study.edited("lora_r: 4", "lora_r: 2"):
            assert own_study.planned(target)["check_engines"] == 1
