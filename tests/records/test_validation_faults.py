"""Check what a validation report says against what its rows show."""

import re

import pytest
from sound_records import CONTENTS, changed
from sparseft.records.validation_record import ValidationRecord

LEFT = {"passed": False, "layers_checked": 0, "layers": [], "expected_sparsity": None, "actual_sparsity": None,
        "sparsity_within_tolerance": None}  # fmt: skip


def test_a_sound_report_has_no_fault():
    assert ValidationRecord(**CONTENTS[ValidationRecord]).faults() == []


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
    (fault,) = ValidationRecord(**changed(ValidationRecord, **changes)).faults()
    assert re.search(words, fault)
