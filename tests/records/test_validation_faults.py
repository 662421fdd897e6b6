"""Check what a validation report says, against what its rows and the mask's file show."""

import re

import numpy as np
import pytest
from sound_records import CONTENTS, changed
from sparseft.masks.mask_file import Mask, pack
from sparseft.masks.mask_summary import summarise_mask
from sparseft.records.manifests import MaskMeta
from sparseft.records.validation_record import MaskFile, ValidationRecord

from masks import write_mask

META = MaskMeta(**CONTENTS[ValidationRecord]["mask"])
LAYERS = [("layers.0", 1000, 500), ("layers.1", 1000, 500)]
MASK = MaskFile("mask", META, LAYERS)
LEFT = {"passed": False, "layers_checked": 0, "layers": [], "expected_sparsity": None, "actual_sparsity": None,
        "sparsity_within_tolerance": None}  # fmt: skip


@pytest.mark.parametrize("mask", [None, MASK, MaskFile("another")])
def test_a_sound_report_has_no_fault(mask):
    assert ValidationRecord(**CONTENTS[ValidationRecord]).faults(mask) == []


@pytest.mark.parametrize(("changes", "words"), [
    ({"passed": False, "violations": 3, "max_abs_violation": 1e-6}, "failed.* 3 weights violate .*1e-06"),
    ({"passed": False}, "failed"),
    (LEFT, "failed.* 0 of 2 layers"),
    ({"violations": 1}, "says passed.* 1 weights violate .* 0 violations"),
    ({"max_abs_violation": 0.5}, "says passed.* 0 violations.* 0.5"),
    ({"layers_checked": 1}, "says passed.* 1 of 2 layers .*totals.* 2 layer rows"),
    ({"mask_of_base": False}, "says passed.*another base"),
    ({"tensors_outside_changed": ["a", "b"]}, "says passed.*outside the mask: a, b"),
    ({"layers__0__violations": 3}, "says passed.*totals .* 3 violations"),
    ({"expected_sparsity": 0.25}, "says passed.*expected_sparsity 0.25 .* 1,000 of 2,000"),
    ({"actual_sparsity": 0.25}, "says passed.*actual_sparsity 0.25 .* 1,000 of 2,000"),
])  # fmt: skip
def test_a_report_that_fails_or_that_says_more_than_its_rows_show_has_a_fault(changes, words):
    (fault,) = ValidationRecord(**changed(ValidationRecord, **changes)).faults(MASK)
    assert re.search(words, fault)


@pytest.mark.parametrize(("mask", "words"), [
    (MaskFile("mask", META.model_copy(update={"seed": 1}), LAYERS), "mask settings"),
    (MaskFile("mask", META, [("layers.0", 1000, 499), LAYERS[1]]), "layer rows"),
    (MaskFile("mask", META, LAYERS[:1]), "layer rows"),
    (MaskFile("mask"), "mask settings.*layer rows"),
])  # fmt: skip
def test_a_report_that_differs_from_the_mask_s_file_has_a_fault(mask, words):
    (fault,) = ValidationRecord(**CONTENTS[ValidationRecord]).faults(mask)
    assert re.search(f"says passed.*{words}", fault)


def test_a_mask_is_summarised_with_what_it_says_of_itself_and_any_other_file_without(tmp_path):

    kept = np.arange(12).reshape(3, 4) % 3 > 0
    meta = {"method": "unstructured", "sparsity": 1 / 3, "scope": "layer", "note": "of my own"}
    write_mask(tmp_path / "mask.pt", Mask(meta, {"a": pack(kept)}, {"a": (3, 4)}))
    found = summarise_mask(tmp_path / "mask.pt")
    assert found.layers == [("a", 12, 4)]
    assert (found.settings.method, found.settings.scope, found.settings.model_extra["note"]) == (
        "unstructured",
        "layer",
        "of my own",
    )
    (tmp_path / "other.pt").write_text("no mask")
    other = summarise_mask(tmp_path / "other.pt")
    assert (other.settings, other.layers, len(other.sha256)) == (None, None, 64)
