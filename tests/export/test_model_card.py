"""Test what a model card says: of the licence of its base, and of what its files leave out."""

import pytest
from huggingface_hub import ModelCard
from records.sound_records import CONTENTS
from sparseft.export.model_card import model_card, stated_licence
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.manifests import ModelManifest
from sparseft.records.validation_record import ValidationRecord
from sparseft.study.grid import Run

MANIFEST = ModelManifest.model_construct(source="hub:somebody/tiny", revision=None)


def card(licence: dict[str, str] | None = None, method: str = "layers_block_influence", **proof: object) -> ModelCard:
    """Return the card of a run without training, whose proof has these values."""
    run = Run.parse(f"m-t-{method}-sparsity20-no_finetune-seed0")
    records = (
        ValidationRecord.model_validate(CONTENTS[ValidationRecord]).model_copy(update=proof),
        EvaluationRecord.model_validate(CONTENTS[EvaluationRecord]),
        None,
    )
    return model_card(run, MANIFEST, licence or {}, records, None)


def test_a_card_of_a_model_without_layers_does_not_say_that_nothing_was_left_out():
    text = card(removed_weights=500, actual_sparsity=0.2).text
    assert "20.00 % of the 2,500 prunable weights of the dense model were left out." in text
    assert "3. The files lack the experts or decoder layers that were left out." in text
    assert "Nothing" not in text


def test_a_licence_that_wants_it_named_is_named():
    assert "\nBuilt with Llama.\n" in card({"license": "llama3.2"}).text
    assert "\nBuilt with Meta Llama 3.\n" in card({"license": "other", "license_name": "llama3"}).text
    assert not any("Built" in card({"license": name}).text for name in ("llama2", "mit"))


UNREADABLE = {
    "not YAML": b"---\nlicense: [\n---\n",
    "a list": b"---\n- license\n---\n",
    "not UTF-8": b"---\nlicense: \xff\n---\n",
    "a number": b"---\nlicense: 3\n---\n",
    "a mapping": b"---\nlicense: {name: mit}\n---\n",
    "code": b"---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
    "no date": b"---\nlicense: mit\ndate: 2024-13-45\n---\n",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_metadata_of_the_base_that_cannot_be_read_state_no_licence_and_are_named(tmp_path, capsys, name):
    (tmp_path / "README.md").write_bytes(UNREADABLE[name])
    assert stated_licence(tmp_path) == {}
    printed = capsys.readouterr().err
    assert printed.startswith(f"warning: {tmp_path}/README.md: ") and printed.count("\n") == 1


def test_the_card_states_the_licence_of_the_base(tmp_path):
    stated = {"license": "other", "license_name": "tiny", "license_link": "LICENSE"}
    (tmp_path / "README.md").write_text(
        "---\n" + "".join(f"{key}: {value}\n" for key, value in stated.items()) + "---\n"
    )
    assert stated_licence(tmp_path) == stated
    data = card(stated).data
    assert {key: getattr(data, key) for key in stated} == stated


@pytest.mark.parametrize("text", ["", "No metadata.", "---\n---\n", "---\nlicense:\n---\n", "---\nlanguage: en\n---\n"])
def test_a_base_that_states_no_licence_gives_none(tmp_path, capsys, text):
    (tmp_path / "README.md").write_text(text)
    assert stated_licence(tmp_path) == {}
    assert stated_licence(tmp_path / "elsewhere") == {}
    assert capsys.readouterr().err == ""
