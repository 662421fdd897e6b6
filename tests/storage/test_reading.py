"""Only regular files are read, and only up to a size."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sparseft.analysis.baseline import read_baseline
from sparseft.analysis.study import read_study
from sparseft.checkpoints.checkpoint import Checkpoint, read_header
from sparseft.checkpoints.mdl import MdlFile
from sparseft.errors import InputError
from sparseft.lora.adapter import read_adapter
from sparseft.masks.mask_file import read_mask
from sparseft.masks.torch_file import read_torch_file
from sparseft.storage.atomic import atomic_folder
from sparseft.storage.hashes import sha256
from sparseft.storage.reading import read_bytes, read_json, read_text
from sparseft.storage.record import read_record
from sparseft.study import passes
from sparseft.study.configfiles import read_configuration
from sparseft.tasks.data_source import load_text
from sparseft.tasks.rows import read_rows
from sparseft.tasks.task import RowFormat
from sparseft.training.state import read_state
from tiny_models import save_tiny


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
    with atomic_folder(adapter, "adapter") as folder:
        (folder / "adapter_config.json").write_text(
            '{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": []}'
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
        read_study(tmp_path)


def test_a_record_of_an_insane_size_is_refused_unread(tmp_path):
    path = tmp_path / "evaluation.json"
    with open(path, "wb") as file:
        file.truncate(10**9 + 1)
    with pytest.raises(InputError, match=r"1000000001 bytes.* 1000000000\b"):
        read_json(path)
