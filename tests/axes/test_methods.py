"""Check the names of methods, and what follows from them."""

import re
from dataclasses import replace

import pytest
from project import ROOT
from sparseft.axes.importances import DEFAULT, IMPORTANCES
from sparseft.axes.importances.sparsegpt import SPARSEGPT
from sparseft.axes.methods import IMPORTED, METHODS, get_method, sort_key
from sparseft.axes.patterns import PATTERNS, Pattern
from sparseft.axes.patterns.unstructured import UNSTRUCTURED
from sparseft.common.errors import InputError
from sparseft.training.trainers.backends import BACKENDS


@pytest.mark.parametrize(
    ("values", "folders"),
    [((*PATTERNS, *IMPORTANCES), {"patterns", "importances"}), (BACKENDS, {"backends", "trainers"})],
)
def test_no_code_outside_their_folders_asks_for_a_pattern_an_importance_or_a_backend_by_its_name(values, folders):
    names = "|".join(value.name for value in values)
    asks = re.compile(
        rf"[=!]= *[\"'](?:{names})[\"']|[\"'](?:{names})[\"'] *[=!]=|sparseft\.(?:patterns|importances)\.(?:{names})"
    )
    code = [
        path for pattern in ("rules/**/*.smk", "workflow/scripts/*.py", "lib/**/*.py") for path in ROOT.glob(pattern)
    ]
    outside = [path for path in [ROOT / "Snakefile", *code] if not folders & set(path.parts)]
    assert len(outside) > 100
    assert [path for path in outside if asks.search(path.read_text())] == []


def test_an_importance_with_an_algorithm_of_its_own_needs_a_pattern_that_has_it():
    new = Pattern("new", select=UNSTRUCTURED.select)
    assert new.allows(DEFAULT) and not new.allows(SPARSEGPT)
    assert replace(new, updates=("sparsegpt",)).allows(SPARSEGPT)
    # Layers that lose the same channels cannot be pruned one after the other.
    assert not METHODS["structured_wanda"].is_sequential


def test_what_is_computed_from_examples_is_computed_once_and_recorded():
    for method in METHODS.values():
        assert bool(method.accumulated) == method.uses_examples
        assert len(set(method.statistics)) == len(method.statistics)
    assert len(get_method("unstructured_wanda_owl").statistics) == 1


@pytest.mark.parametrize("base", [name for name, method in METHODS.items() if method.uses_examples])
def test_a_method_on_a_text_is_the_method_but_for_its_examples(base):
    method, plain = get_method(f"{base}_on_c4"), METHODS[base]
    assert (method.name, replace(method, calibration=plain.calibration)) == (f"{base}_on_c4", plain)
    # What removes units looks at what the model samples, and anything else at the task.
    own, other = ("self", "task") if plain.pattern.removes != "weights" else ("task", "self")
    assert (plain.uses_task, method.uses_task, get_method(f"{base}_on_{other}").uses_task) == (
        own == "task", False, other == "task"
    )  # fmt: skip
    assert get_method(f"{base}_on_{other}").name == f"{base}_on_{other}"
    with pytest.raises(InputError, match=f"{base}_on_{own}. is unknown; did you mean {base}[?]"):
        get_method(f"{base}_on_{own}")
    # Of such a text the examples of the task are a part.
    assert get_method(f"{base}_on_taskc4").uses_task


def test_an_imported_method_updates_weights_and_looks_at_no_examples():
    method = get_method("imported_wanda7")
    assert (method.name, method.imported, method.pattern) == ("imported_wanda7", "wanda7", IMPORTED)
    assert (method.updates_weights, method.uses_examples, method.is_sequential) == (True, False, False)


REFUSED = (
    "structured_ria unstructured_ random_wanda unstructured_refit structured_owl unstructured_on_c4"
    " unstructured_wanda_on_c4_on_pile unstructured_wanda_on_C4 imported_A imported_a_on_c4 experts layers_reap"
)


@pytest.mark.parametrize("name", REFUSED.split())
def test_a_name_that_means_no_method_is_refused(name):
    with pytest.raises(InputError, match=rf"^method '{name}' is unknown; .*docs/methods.md lists all methods$"):
        get_method(name)


def test_methods_are_sorted_with_their_variants_and_imported_ones_last():
    names = ["dense"]
    for name, method in METHODS.items():
        names += [name, f"{name}_on_c4", f"{name}_on_pile"] if method.uses_examples else [name]
    assert sorted({*names, "imported_b", "imported_a"}, key=sort_key) == [*names, "imported_a", "imported_b"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("wanda", "unstructured_wanda or structured_wanda or semistructured_wanda or semistructured8_wanda"),
        ("unstructred_ria", "unstructured_ria or "),
    ],
)
def test_an_importance_alone_and_a_typing_error_are_answered_with_the_methods_that_may_be_meant(name, meant):
    with pytest.raises(InputError, match=f"did you mean {meant}"):
        get_method(name)
