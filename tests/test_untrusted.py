"""Files of strangers stay data: no pickle runs, no name leaves its folder, no claim of a size or a depth is believed."""

import os
import pickle
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from sparseft.backends.appliance import Failure, classify
from sparseft.checkpoints.checkpoint import read_header
from sparseft.checkpoints.mdl import MdlFile, mdl_writer
from sparseft.checkpoints.model_source import prepare_model
from sparseft.errors import InputError
from sparseft.language_model.model import load_model
from sparseft.masks.mask_file import read_mask
from sparseft.study.config import Config, Model
from sparseft.study.grid import Cell, Run
from sparseft.study.section import parse_section
from sparseft.training.state import read_state
from tiny_models import change_json, save_tiny


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def evil(tmp_path):
    """An object that must not be unpickled, and was not."""
    place = tmp_path / "ran"
    yield Evil(place)
    assert not place.exists(), "the pickle ran"


def test_the_pickle_does_run_where_it_is_opened(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_mask_is_refused(tmp_path, evil, zipped):
    torch.save({"format_version": 1, "meta": evil, "bits": {}, "shape": {}}, tmp_path / "m.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(InputError, match=r"m\.pt: not a mask file"):
        read_mask(tmp_path / "m.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_saved_state_is_left_aside(tmp_path, evil, capsys, zipped):
    torch.save({"identity": "mine", "progress": evil}, tmp_path / "state.pt", _use_new_zipfile_serialization=zipped)
    assert read_state(tmp_path / "state.pt", "mine") is None
    assert "state.pt is damaged" in capsys.readouterr().err


def test_a_model_of_pickles_is_refused_unopened(tmp_path, evil):
    folder = save_tiny("llama", tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": evil}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickles \(\*\.bin\)"):
        prepare_model(Model(source=f"path:{folder}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(tmp_path, file):
    folder = save_tiny("llama", tmp_path / "m")
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    kinds = ("AutoConfig", "AutoModelForCausalLM") if file == "config.json" else ("AutoTokenizer",)
    own = {kind: "evil.Evil" if kind != "AutoTokenizer" else ["evil.Evil", None] for kind in kinds}
    kind = {"model_type": "evil"} if file == "config.json" else {"tokenizer_class": "Evil"}
    change_json(folder / file, auto_map=own, **kind)
    with pytest.raises(ValueError, match="(?i)trust_remote_code"):
        load_model(folder, torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.process
def test_a_pickle_in_an_mdl_file_is_refused(tmp_path, evil):
    path = tmp_path / "x.mdl"
    with mdl_writer(path, "model") as writer:
        writer.create("w", "F32", (2,))
        writer.write("w", (), np.zeros(2, np.uint32))
    with h5py.File(path, "a") as file:
        file["model.evil"] = np.frombuffer(pickle.dumps(evil), np.uint8)
        file.attrs["model.evil.__metadata__"] = (
            '{"model.evil.__metadata__": {"__TYPE__": "ObjectSerializer", "__BYTES__": true}}'
        )
        file.attrs["__spec__"] = file.attrs["__spec__"].replace("model.w", "model.evil")
    assert MdlFile(path).tensors.keys() == {"model.w"}


@pytest.mark.parametrize("name", ["../{}", "/{}", "{}/..", "a/{}", "{}\n", "{}\0", "..-{}"])
@pytest.mark.parametrize("kind", [Run, Cell])
def test_a_name_that_leaves_its_folder_names_no_run(name, kind):
    good = "m-boolq-random-sparsity50-no_finetune" + ("-seed0" if kind is Run else "")
    assert kind.parse(good).id == good
    with pytest.raises(InputError, match="is not the name of a"):
        kind.parse(name.format(good))


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001, 20])
def test_a_safetensors_header_that_claims_more_than_the_file_is_refused_unread(tmp_path, length):
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="truncated"):
        read_header(tmp_path / "model.safetensors")


def test_a_model_of_a_billion_layers_is_not_built(tmp_path):
    change_json(save_tiny("llama", tmp_path / "m") / "config.json", num_hidden_layers=10**9)
    with pytest.raises(InputError, match="m: config.json is damaged: its decoder layers have 9000000000 tensors"):
        load_model(tmp_path / "m", torch.device("cpu"))


def test_a_model_with_more_layers_than_its_files_is_not_built(tmp_path):
    change_json(save_tiny("llama", tmp_path / "m") / "config.json", num_hidden_layers=20_000)
    begin = time.process_time()
    with pytest.raises(InputError, match="m: it does not fit its config.json: 179982 tensors missing"):
        load_model(tmp_path / "m", torch.device("cpu"))
    assert time.process_time() - begin < 5


def bomb(levels: int) -> str:
    """9 ** levels words in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, f"bomb: *a{levels - 1}"])


@pytest.mark.parametrize("place", ["methods", "models", "sparsities", "seeds"])
def test_a_configuration_of_lists_of_lists_is_refused_without_writing_them_out(place):
    content = yaml.safe_load(bomb(12))["bomb"]
    begin = time.process_time()
    with pytest.raises(InputError) as error:
        parse_section(Config, {"models": {"m": {"source": "path:x"}}, "grid": {place: content}}, "configuration")
    assert len(str(error.value)) < 500
    assert time.process_time() - begin < 2


@pytest.mark.long
def test_a_log_of_one_endless_line_is_read_in_its_own_time():
    begin = time.process_time()
    assert classify("http2 " * 300_000) is Failure.PERMANENT
    assert classify("http2 header with status: 502") is Failure.RETRY
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("seed", [2**63, 10**19, "9" * 5000])
def test_a_seed_that_the_tables_cannot_hold_names_no_run(seed):
    name = "m-boolq-random-sparsity50-no_finetune-seed{}"
    assert Run.parse(name.format(2**63 - 1)).seed == 2**63 - 1
    with pytest.raises(InputError, match="is not the name of a run"):
        Run.parse(name.format(seed))
