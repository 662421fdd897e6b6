"""Test what a model card says: of the licence of its base, and of what its files leave out."""

from contextlib import nullcontext

import pytest
from huggingface_hub import ModelCard
from sparseft.axes.grid import Run
from sparseft.common.errors import InputError
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.models.checkpoints.manifests import ModelManifest
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.serving.licence import Terms, check_derivatives, stated_licence, terms_of
from sparseft.serving.model_card import model_card
from storage.sound_records import CONTENTS

MANIFEST = ModelManifest.model_construct(source="hub:somebody/tiny", revision=None)


def card(licence: dict[str, str] | None = None, method: str = "layers_block_influence", **proof: object) -> ModelCard:
    """Return the card of a run without training, whose proof has these values."""
    run = Run.parse(f"m-t-{method}-sparsity20-no_finetune-seed0")
    report = ValidationRecord.model_validate(CONTENTS[ValidationRecord]).model_copy(update=proof)
    records = (report, EvaluationRecord.model_validate(CONTENTS[EvaluationRecord]), None)
    return model_card(run, MANIFEST, licence or {}, records, None)


def test_a_card_says_what_the_files_leave_out_and_whether_pruned_weights_are_zeros():
    text = card(removed_weights=500, actual_sparsity=0.2).text
    assert "20.00 % of the 2,500 prunable weights of the dense model were left out." in text
    assert "3. The files lack the experts or decoder layers that were left out." in text
    lifted = card(expected_sparsity=0.0, method="unstructured").text
    assert "3. The files have every weight.\n" in lifted


# What the base states, the words of the card, the beginning of the name, and that of the sentence in Notice.
@pytest.mark.parametrize(("licence", "words", "name", "notice"), [
    ({"license": "llama3.2"}, "Built with Llama.", "Llama-m-t-",
     "Llama 3.2 is licensed under the Llama 3.2 Community License, "),
    ({"license": "other", "license_name": "llama3"}, "Built with Meta Llama 3.", "Llama-3-m-t-",
     "Meta Llama 3 is licensed under the Meta Llama 3 Community License, "),
    ({"license": "llama2"}, None, "m-t-", None),
])  # fmt: skip
def test_what_a_licence_of_meta_wants_is_in_the_card(licence, words, name, notice):
    written, terms = card(licence), terms_of(licence)
    assert written.data.model_name.startswith(name) and f"# {written.data.model_name}\n" in written.text
    assert (f"\n{words}\n" in written.text) if words else "Built" not in written.text
    assert (terms and terms.notice) == (notice and f"{notice}Copyright © Meta Platforms, Inc. All Rights Reserved.\n")
    assert Terms("Llama 3.2").named("Llama-3.2-1B-t") == "Llama-3.2-1B-t"


@pytest.mark.parametrize(("name", "text", "found"), [
    ("README.md", "---\nlicense: CC BY NC ND 4.0\n---\n", "by-nc-nd"),
    ("README.md", "---\nlicense: other\nlicense_link: https://creativecommons.org/licenses/by-nd/4.0/\n---\n", "by-nd"),
    ("Licence.md", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0\n",
     "attribution-noncommercial-noderivatives"),
    ("COPYING", "Attribution - NoDerivatives 4.0", "attribution-noderivatives"),
    ("LICENSE", "Attribution-NoDerivatives 4.0".encode("utf-16"), "attribution-noderivatives"),
    ("README.md", "---\nlicense: cc-by-nc-sa-4.0\n---\n", None),
    ("LICENSE", f"Apache License\n{'-' * 600} Attribution-NoDerivatives", None),
])  # fmt: skip
def test_a_licence_that_forbids_a_changed_model_is_refused(tmp_path, name, text, found):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"{name}: .*\({found}\) forbids .*; ") if found else nullcontext():
        check_derivatives(tmp_path, stated_licence(tmp_path))


WITHOUT = [b"No metadata.", b"---\nlicense:\n---\n", b"---\nlanguage: en\n---\n"]
UNREADABLE = [
    b"---\nlicense: [cc-by-nc-nd-4.0]\n---\n",
    b"---\nlicense: [\n---\n",
    b"---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
]


@pytest.mark.parametrize("content", [*UNREADABLE, *WITHOUT], ids=str)
def test_a_base_that_states_no_licence_gives_none_and_metadata_that_cannot_be_read_are_refused(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content)
    fault = rf"^{tmp_path}/README.md: .*; .* export.license"
    with nullcontext() if content in WITHOUT else pytest.raises(InputError, match=fault):
        assert stated_licence(tmp_path) == stated_licence(tmp_path / "elsewhere") == {}
