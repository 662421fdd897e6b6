"""What this program wrote is marked, and outputs lie apart from inputs."""

from contextlib import nullcontext

import pytest
from peft import PeftModel
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.language_model.model import load_model
from sparseft.lora.adapter import read_adapter, write_adapter
from sparseft.lora.merge import merge
from sparseft.storage.atomic import atomic_folder, write_json
from sparseft.storage.ownership import MARKER, adopt, check_apart, check_ours, check_replaceable, mark
from sparseft.storage.record import check_model, write_record
from sparseft.study.config import Training
from tiny_models import save_tiny

from masks import compute_masks

OURS = {"format_version": 1, "source": "path:x", "digest": "0", "files": {}}


def test_a_model_that_version_0_1_0_prepared_is_adopted(tmp_path):
    write_json(tmp_path / "m/manifest.json", OURS)
    adopt(tmp_path / "m")
    adopt(tmp_path / "m")
    (tmp_path / "m/manifest.json").unlink()
    with atomic_folder(tmp_path / "m", "model") as folder:
        (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("manifest", [None, "{}", "[]", "no JSON", '{"source": "x", "digest": "y"}'])
def test_a_folder_of_others_is_not_adopted(tmp_path, manifest):
    if manifest:
        (tmp_path / "manifest.json").write_text(manifest)
    adopt(tmp_path)
    adopt(tmp_path / "nowhere")
    assert not (tmp_path / MARKER).exists()


def test_the_marker_is_no_content_of_a_model(tmp_path):
    base = Checkpoint(save_tiny("llama", tmp_path / "base"))
    for name in (MARKER, ".snakemake_timestamp"):
        (base.folder / name).write_text("the base's own")
    mask = compute_masks(base, "random", [50])[50]
    record = merge(base, mask, "m", None, tmp_path / "run/model_dir")
    assert "the base's own" not in (tmp_path / "run/model_dir" / MARKER).read_text()
    assert not any(name.startswith(".") for name in record["outputs"])
    write_record(tmp_path / "run/merge.json", {"outputs": record["outputs"]})
    check_model(tmp_path / "run/model_dir", Checkpoint(tmp_path / "run/model_dir").hashes())
    model, _ = load_model(tmp_path / "run/model_dir", "cpu")
    matrices = {f"model.layers.{n}.mlp.up_proj": (model.lm_head.weight.new_ones(2, 32), model.lm_head.weight.new_ones(48, 2))
                for n in (0, 1)}  # fmt: skip
    write_adapter(tmp_path / "a", matrices, Training(lora_r=2), base="b", sparseft={})
    assert (tmp_path / "a" / MARKER).exists()
    assert len(read_adapter(tmp_path / "a")[0]) == 2
    PeftModel.from_pretrained(model, tmp_path / "a")


@pytest.mark.parametrize("output", ["in", "in/new", "in/deep/new", "link", "link/new", "other/../in"])
def test_an_output_that_is_an_input_or_lies_in_one_is_refused(tmp_path, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "other").mkdir()
    check_apart([tmp_path / "out", tmp_path / "inside"], [tmp_path / "in", None])
    with pytest.raises(InputError, match="is an input"):
        check_apart([tmp_path / output], [None, tmp_path / "in"])


def test_a_file_of_ours_that_is_a_folder_now_is_refused_before_the_work(tmp_path):
    (tmp_path / "a").mkdir()
    mark(tmp_path, "masks")
    with pytest.raises(InputError, match="a: no file can be written"):
        check_ours(tmp_path, "masks", tmp_path / "a")


@pytest.mark.parametrize(("marker", "is_ours"), [
    ("SparseFT wrote this folder (masks), and replaces what it wrote here when it makes it again.\n", True),
    ("SparseFT wrote this folder, and replaces what it wrote here when it makes it again.\n", True),
    ("SparseFT wrote this folder (model), and replaces what it wrote here when it makes it again.\n", False),
    ("", False),
    ("x" * 2000, False),
])  # fmt: skip
def test_a_folder_is_replaced_by_its_own_kind_only(tmp_path, marker, is_ours):
    (tmp_path / MARKER).write_text(marker)
    (tmp_path / "a").touch()
    for check in (lambda: check_replaceable(tmp_path, "masks"), lambda: check_ours(tmp_path, "masks", tmp_path / "b")):
        with nullcontext() if is_ours else pytest.raises(InputError):
            check()
