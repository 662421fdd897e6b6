"""Files of strangers stay data: no pickle runs, no code beside a model runs, and no name leaves its folder."""

import os
from pathlib import Path

import pytest
import torch
from project import DAMAGES
from sparseft.axes.grid import Cell, Run
from sparseft.common.errors import InputError
from sparseft.models.language_model.model import load_model
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.training.progress import SavedState
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


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_mask_is_refused(tmp_path, evil, zipped):
    torch.save({"format_version": 1, "meta": evil, "bits": {}, "shape": {}}, tmp_path / "m.pt",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(InputError, match=r"m\.pt: not a mask file"):
        read_mask(tmp_path / "m.pt")


def test_a_pickle_in_a_saved_state_is_left_aside(tmp_path, evil, capsys):
    torch.save({"identity": "mine", "progress": evil}, tmp_path / "state.pt")
    assert SavedState(tmp_path / "state.pt", "mine").read() is None
    assert "state.pt is damaged" in capsys.readouterr().err


def test_a_saved_state_without_a_key_is_left_aside(tmp_path, capsys):
    state = SavedState(tmp_path / "state.pt", "mine")
    state.write({"progress": []})
    assert (state.read("progress"), state.read("progress", "matrices")) == ({"progress": []}, None)
    assert "state.pt is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_saved_state_that_is_damaged_or_of_another_training_is_left_aside(tmp_path, capsys, kind):
    state, other = (SavedState(tmp_path / f"{name}.pt", name) for name in ("mine", "other"))
    for saved in (state, other):
        saved.write({"progress": list(range(1000))})
    assert state.read("progress")
    state.path.write_bytes(DAMAGES[kind](state.path.read_bytes(), other.path.read_bytes()))
    assert state.read("progress") is None
    reason = "of other code, inputs or settings" if kind == "another run's file" else "damaged"
    assert capsys.readouterr().err == f"{state.path} is {reason}: the training starts from its beginning\n"


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


@pytest.mark.parametrize("name", ["../{}", "/{}", "{}/..", "{}\n"])
@pytest.mark.parametrize("kind", [Run, Cell])
def test_a_name_that_leaves_its_folder_names_no_run(name, kind):
    good = "m-boolq-random-sparsity50-no_finetune" + ("-seed0" if kind is Run else "")
    assert kind.parse(good).id == good
    with pytest.raises(InputError, match="is not the name of a"):
        kind.parse(name.format(good))
