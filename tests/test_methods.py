"""Check the names of methods, and what follows from them."""

import pytest
from sparseft.errors import InputError
from sparseft.importances import DEFAULT, IMPORTANCES
from sparseft.methods import DENSE, METHODS, PATTERNS, get_method


def test_every_method_is_found_by_its_name():
    assert {method.name: method for method in METHODS.values()} == METHODS
    assert get_method("dense").pattern is DENSE


def test_there_is_a_method_for_every_pattern_and_every_importance_that_it_allows():
    allowed = {
        (pattern, name) for importance in IMPORTANCES for pattern in importance.patterns for name in [importance.name]
    }
    made = {(method.pattern.name, method.importance.name) for method in METHODS.values() if method.importance}
    assert made == allowed
    without = [method.name for method in METHODS.values() if not method.importance]
    assert without == [pattern.name for pattern in PATTERNS if not pattern.has_importance] == ["random"]


def test_a_name_without_an_importance_means_the_default_one():
    assert get_method("structured").importance is DEFAULT


@pytest.mark.parametrize("name", ["structured_wanda", "unstructured_", "random_wanda", "Unstructured", ""])
def test_a_name_that_means_no_method_is_refused(name):
    with pytest.raises(InputError, match="is unknown"):
        get_method(name)
