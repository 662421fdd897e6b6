"""Records carry a digest of themselves, and what they record is checked before it is used."""

import json

import pytest
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError
from sparseft.lora.adapter import read_adapter
from sparseft.storage.adapter_files import adapter_digest
from sparseft.storage.record import check_adapter, check_model, check_record, read_record, write_record

CONTENT = {"value": 0.5, "nested": {"words": ["é", None, True]}, "empty": {}}


def test_a_record_is_json_with_the_digest_last(tmp_path):
    write_record(tmp_path / "x.json", CONTENT)
    found = json.loads((tmp_path / "x.json").read_text())
    assert list(found)[-1] == "record_sha256"
    assert read_record(tmp_path / "x.json") == CONTENT


def test_a_record_is_replaced_by_its_own_kind_only(tmp_path):
    write_record(tmp_path / "x.json", {"record": "merge", **CONTENT})
    check_record(tmp_path / "x.json", "merge")
    check_record(tmp_path / "new.json", "merge")
    write_record(tmp_path / "older.json", CONTENT)
    for name, kind in (("x.json", "merg"), ("x.json", "evaluation"), ("older.json", "merge")):
        with pytest.raises(InputError, match=f"{name}: a file of another kind"):
            check_record(tmp_path / name, kind)


@pytest.mark.long
def test_any_flipped_bit_of_a_record_is_found(tmp_path):
    path = tmp_path / "x.json"
    write_record(path, CONTENT)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(InputError, match=r"x\.json: .*rm -r .*x\.json && snakemake"):
                read_record(path)


def test_an_adapter_is_the_one_that_its_training_recorded(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (adapter / name).write_bytes(b"{}")
    check_adapter(adapter, adapter_digest(adapter))  # nothing is recorded of it
    write_record(tmp_path / "train.json", {"outputs": {"adapter": adapter_digest(adapter)}})
    check_adapter(adapter, adapter_digest(adapter))
    (adapter / "adapter_config.json").write_bytes(b"[]")
    with pytest.raises(InputError, match=r"adapter: .*train\.json records"):
        check_adapter(adapter, adapter_digest(adapter))
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="adapter_config.json: no such file"):
        read_adapter(adapter)


@pytest.mark.parametrize("change", ["weights", "tokenizer", "more", "less"])
def test_a_merged_model_is_the_one_that_its_merge_recorded(tmp_path, change):
    model = tmp_path / "model_dir"
    model.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        (model / name).write_text(name)
    (model / ".snakemake_timestamp").touch()
    check_model(model, Checkpoint(model).hashes())
    write_record(tmp_path / "merge.json", {"outputs": Checkpoint(model).hashes()})
    check_model(model, Checkpoint(model).hashes())
    if change == "less":
        (model / "config.json").unlink()
    else:
        changed = {"weights": "model.safetensors", "tokenizer": "tokenizer.json", "more": "added_tokens.json"}
        (model / changed[change]).write_text("{}")
    named = {
        "weights": "model.safetensors",
        "tokenizer": "tokenizer.json",
        "more": "added_tokens.json",
        "less": "config.json",
    }
    with pytest.raises(InputError, match=f"model_dir/{named[change]}: .*merge.json records"):
        check_model(model, Checkpoint(model).hashes())
