"""Only what this program wrote is replaced, outputs lie apart from inputs, and only regular files are read."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peft import PeftModel
from sparseft.analysis.baseline import read_baseline
from sparseft.analysis.records import read_runs
from sparseft.checkpoints.checkpoint import Checkpoint, read_header
from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError
from sparseft.language_model.model import load_model
from sparseft.lora.adapter import read_adapter, write_adapter
from sparseft.lora.merge import merge
from sparseft.masks.mask_file import read_mask
from sparseft.masks.torch_file import read_torch_file
from sparseft.storage import files
from sparseft.storage.files import (
    MARKER,
    adopt,
    atomic_file,
    atomic_folder,
    check_apart,
    read_bytes,
    read_json,
    read_text,
    sha256,
    staged,
    write_json,
)
from sparseft.storage.record import check_model, read_record, write_record
from sparseft.study import passes
from sparseft.study.config import Training
from sparseft.study.configfiles import read_configuration
from sparseft.tasks.rows import read_rows
from sparseft.tasks.source import load_text
from sparseft.tasks.task import RowFormat
from sparseft.training.state import read_state
from tiny_models import save_tiny

from masks import compute_masks


def write_folder(path: Path, **contents: str) -> None:
    """Write a folder as the program does."""
    with atomic_folder(path) as folder:
        for name, text in contents.items():
            (folder / name).write_text(text)


@contextmanager
def seconds(limit: int) -> Iterator[None]:
    """Raise TimeoutError if the block takes longer; a read that waits for ever would end no test."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{limit} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_folder_of_this_program_is_marked_and_replaced(tmp_path):
    write_folder(tmp_path / "out", a="1")
    assert "SparseFT" in (tmp_path / "out" / MARKER).read_text()
    assert (tmp_path / "out" / MARKER).read_text().count("\n") == 1
    (tmp_path / "out/.snakemake_timestamp").touch()
    write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "manifest.json", "compact.json"])
def test_somebody_else_s_checkpoint_is_not_replaced(tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("{}")
    with pytest.raises(InputError, match="theirs: .*other files"):
        write_folder(tmp_path / "theirs", **{name: "ours"})
    assert (tmp_path / "theirs" / name).read_text() == "{}"


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", a="1")
    assert (tmp_path / "out/a").read_text() == "1"


def test_a_folder_that_others_fill_while_ours_is_written_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="would be lost"), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("ours")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/a").write_text("theirs")
    assert (tmp_path / "out/a").read_text() == "theirs"


@pytest.mark.parametrize("owner", [2**22 + 1, "own"])
def test_a_folder_that_a_killed_process_moved_aside_is_put_back_before_a_new_one_is_written(tmp_path, owner):
    owner = os.getpid() if owner == "own" else owner  # process numbers return
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "out").rename(tmp_path / f".out.old.{owner}.tmp")
    (tmp_path / f".out.{owner}.tmp").mkdir()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert (tmp_path / "out/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "2"


def test_a_folder_that_was_moved_aside_does_not_replace_a_newer_one(tmp_path):
    write_folder(tmp_path / "out", a="1")
    (tmp_path / "out").rename(tmp_path / f".out.old.{2**22 + 1}.tmp")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").write_text("2")
    with pytest.raises(InputError, match="other files"):
        write_folder(tmp_path / "out", a="3")
    assert (tmp_path / "out/b").read_text() == "2"


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_older_one(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", a="1")
    replace, calls = os.replace, []

    def second_fails(*places: object) -> None:
        calls.append(places)
        if len(calls) == 2:
            raise OSError("no")
        replace(*places)

    monkeypatch.setattr(files.os, "replace", second_fails)
    with pytest.raises(OSError, match="no"):
        write_folder(tmp_path / "out", a="2")
    assert (tmp_path / "out/a").read_text() == "1"


def test_a_prepared_model_is_replaced_after_snakemake_deleted_its_manifest(tmp_path):
    write_folder(tmp_path / "m", **{"config.json": "{}", "manifest.json": "{}"})
    (tmp_path / "m/manifest.json").unlink()
    write_folder(tmp_path / "m", **{"config.json": "[]", "manifest.json": "{}"})
    assert (tmp_path / "m/config.json").read_text() == "[]"


OURS = {"format_version": 1, "source": "path:x", "digest": "0", "files": {}}


def test_a_model_that_version_0_1_0_prepared_is_adopted(tmp_path):
    write_json(tmp_path / "m/manifest.json", OURS)
    adopt(tmp_path / "m")
    adopt(tmp_path / "m")
    (tmp_path / "m/manifest.json").unlink()
    write_folder(tmp_path / "m", **{"config.json": "{}"})


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


def test_files_are_moved_over_ours_alone(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/summary.csv").write_text("theirs")
    with (
        pytest.raises(InputError, match=r"summary\.csv: .*would be lost"),
        staged(tmp_path / "theirs") as folder,
    ):
        (folder / "summary.csv").write_text("ours")
        (folder / "other.csv").write_text("ours")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["summary.csv"]
    for text in ("1", "2"):
        with staged(tmp_path / "ours") as folder:
            (folder / "summary.csv").write_text(text)
    assert (tmp_path / "ours/summary.csv").read_text() == "2"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: no file"), atomic_file(tmp_path / "pipe") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("output", ["in", "in/new", "in/deep/new", "link", "link/new", "other/../in"])
def test_an_output_that_is_an_input_or_lies_in_one_is_refused(tmp_path, output):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "other").mkdir()
    check_apart([tmp_path / "out", tmp_path / "inside"], [tmp_path / "in", None])
    with pytest.raises(InputError, match="is an input"):
        check_apart([tmp_path / output], [None, tmp_path / "in"])


READERS = {
    "read_json": read_json,
    "read_record": read_record,
    "read_bytes": read_bytes,
    "read_text": lambda path: read_text(path, 9, ""),
    "sha256": sha256,
    "rows": lambda path: read_rows(path, RowFormat(name="x", fields={})),
    "wikitext": load_text,
    "safetensors": read_header,
    "torch file": read_torch_file,
    "mask": read_mask,
    "mdl": lambda path: MdlFile(path).tensors,
    "baseline": read_baseline,
    "configuration": lambda path: read_configuration([path]),
    "state": lambda path: read_state(path, "x"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_unread(tmp_path, reader, kind):
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with seconds(10), pytest.raises(InputError, match="not a regular file|no such file"):
        READERS[reader](path)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_a_model_folder_is_refused_unread(tmp_path, name):
    folder = save_tiny("llama", tmp_path / "m")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with seconds(10), pytest.raises(InputError, match=f"{name}: not a regular file"):
        _ = Checkpoint(folder).digest


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_in_an_adapter_is_refused_unread(tmp_path, name):
    adapter = tmp_path / "adapter"
    write_folder(
        adapter, **{"adapter_config.json": '{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": []}'}
    )
    (adapter / name).unlink(missing_ok=True)
    os.mkfifo(adapter / name)
    with seconds(10), pytest.raises(InputError, match=f"{name}: not a regular file"):
        read_adapter(adapter)


def test_a_pipe_as_a_list_of_the_first_pass_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    os.mkfifo(tmp_path / "masks/first_pass.json")
    with seconds(10), pytest.raises(InputError, match="not a regular file"):
        passes.recorded(read_configuration([]))


def test_a_pipe_in_a_run_folder_leaves_the_run_out(tmp_path):
    run = tmp_path / "m-t-random-sparsity50-no_finetune-seed0"
    run.mkdir()
    for name in ("evaluation.json", "merge.json"):
        os.mkfifo(run / name)
    with seconds(10), pytest.raises(InputError, match=r"none complete .*merge\.json: not a regular file"):
        read_runs(tmp_path)


def test_a_record_of_an_insane_size_is_refused_unread(tmp_path):
    path = tmp_path / "evaluation.json"
    with open(path, "wb") as file:
        file.truncate(10**9 + 1)
    with pytest.raises(InputError, match=r"1000000001 bytes.* 1000000000\b"):
        read_json(path)
