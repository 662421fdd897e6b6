"""Check the names of methods, and what follows from them."""

import re
from dataclasses import replace

import pytest
from project import ROOT
from sparseft.errors import InputError
from sparseft.importances import DEFAULT, IMPORTANCES, WANDA
from sparseft.importances.sparsegpt import SPARSEGPT
from sparseft.methods import DENSE, IMPORTED, METHODS, OWL, Method, get_method, sort_key
from sparseft.patterns import PATTERNS, Pattern
from sparseft.patterns.semistructured import SEMISTRUCTURED
from sparseft.patterns.structured import STRUCTURED
from sparseft.patterns.unstructured import UNSTRUCTURED


def test_every_method_is_found_by_its_name():
    assert {method.name: method for method in METHODS.values()} == METHODS
    assert get_method("dense").pattern is DENSE


def test_there_is_a_method_for_every_pattern_and_every_importance_that_can_rank_it():
    made = {(method.pattern.name, method.importance.name) for method in METHODS.values() if method.importance}
    for importance in IMPORTANCES:
        patterns = {pattern for pattern, name in made if name == importance.name}
        assert patterns >= {"unstructured", "semistructured"}
        assert ("structured" in patterns) == importance.ranks_channels
    assert {name for pattern, name in made if pattern == "structured"} >= {"magnitude", "gradient", "taylor", "fisher"}
    assert not {name for pattern, name in made if pattern == "structured"} & {"wanda", "ria", "stade", "sparsegpt"}
    without = [method.name for method in METHODS.values() if not method.importance]
    assert without == [pattern.name for pattern in PATTERNS if not pattern.has_importance] == ["random"]


def test_no_code_outside_their_folders_asks_for_a_pattern_or_an_importance_by_its_name():
    names = "|".join(value.name for value in (*PATTERNS, *IMPORTANCES))
    asks = re.compile(
        rf"[=!]= *[\"'](?:{names})[\"']|[\"'](?:{names})[\"'] *[=!]=|sparseft\.(?:patterns|importances)\.(?:{names})"
    )
    places = [
        *ROOT.glob("lib/**/*.py"),
        *ROOT.glob("rules/**/*.smk"),
        *ROOT.glob("workflow/scripts/*.py"),
        ROOT / "Snakefile",
    ]
    outside = [path for path in places if path.parent.name not in ("patterns", "importances")]
    assert len(outside) > 200
    assert [path for path in outside if asks.search(path.read_text())] == []


def test_an_algorithm_that_decides_counts_prunes_no_pattern_that_does_not_take_them():
    new = Pattern("new", select=UNSTRUCTURED.select)
    assert new.allows(DEFAULT)
    assert not new.allows(SPARSEGPT)


def test_layers_that_lose_the_same_channels_are_not_pruned_one_after_the_other():
    by_inputs = replace(WANDA, name="by_inputs", ranks_channels=True)
    assert Method(UNSTRUCTURED, by_inputs).is_sequential
    assert STRUCTURED.allows(by_inputs)
    assert not Method(STRUCTURED, by_inputs).is_sequential


def test_what_an_allocation_and_the_scores_look_at_is_computed_once():
    assert [len(get_method(name).statistics) for name in ("unstructured", "unstructured_owl", "unstructured_wanda_owl",
                                                          "unstructured_stade_owl", "unstructured_taylor_owl")
            ] == [0, 1, 1, 2, 2]  # fmt: skip


def test_a_name_without_an_importance_means_the_default_one():
    assert get_method("structured").importance is DEFAULT


def test_every_method_that_prunes_single_weights_by_an_importance_can_divide_them_by_outliers():
    uniform = [name for name, method in METHODS.items() if not method.allocation]
    divided = {name: method for name, method in METHODS.items() if method.allocation}
    assert {name.removesuffix("_owl") for name in divided} == {
        name for name in uniform if METHODS[name].pattern in (UNSTRUCTURED, SEMISTRUCTURED)
    }
    for name, method in divided.items():
        base = METHODS[name.removesuffix("_owl")]
        assert (method.allocation, method.pattern, method.importance) == (OWL, base.pattern, base.importance)
        assert method.uses_task
        assert method.is_sequential is base.is_sequential


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unstructured", ""),
        ("unstructured_owl", "outliers by decoder layer, from the norms of the dense model's inputs"),
        ("unstructured_wanda", "norm of the inputs over all tokens of all examples"),
        ("unstructured_wanda_owl_on_c4", "norm of the inputs over all tokens of all examples; outliers by decoder layer, "
         "from the norms of the dense model's inputs"),
    ],
)  # fmt: skip
def test_what_is_computed_from_examples_is_said(name, words):
    assert get_method(name).accumulated == words


@pytest.mark.parametrize("name", ["structured_wanda", "unstructured_", "random_wanda", "Unstructured", "", "structured_owl",
                                  "random_owl", "dense_owl", "unstructured_owl_wanda", "unstructured_owl_owl"])  # fmt: skip
def test_a_name_that_means_no_method_is_refused(name):
    with pytest.raises(InputError, match="is unknown"):
        get_method(name)


@pytest.mark.parametrize("base", [name for name, method in METHODS.items() if method.uses_examples])
def test_a_method_on_a_text_is_the_method_on_the_task_but_for_its_examples(base):
    method = get_method(f"{base}_on_c4")
    assert (method.name, method.calibration) == (f"{base}_on_c4", "c4")
    assert (method.pattern, method.importance) == (METHODS[base].pattern, METHODS[base].importance)
    assert (METHODS[base].uses_task, method.uses_task, method.uses_examples) == (True, False, True)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("unstructured_on_c4", "unstructured looks at no examples; write unstructured"),
        ("random_on_c4", "random looks at no examples"),
        ("unstructured_wanda_on_", "'' is not the name of a text"),
        ("unstructured_wanda_on_c4_on_pile", "'c4_on_pile' is not the name of a text"),
        ("unstructured_wanda_on_C4", "'C4' is not the name of a text"),
        ("dense_on_c4", "is unknown"),
    ],
)
def test_what_is_no_method_on_a_text_is_refused(name, fault):
    with pytest.raises(InputError, match=f"^method '{name}'.*{fault}"):
        get_method(name)


def test_an_imported_method_is_named_after_its_checkpoints_and_looks_at_no_examples():
    method = get_method("imported_wanda7")
    assert (method.name, method.imported, method.pattern, method.importance) == (
        "imported_wanda7",
        "wanda7",
        IMPORTED,
        None,
    )
    assert (method.updates_weights, method.uses_examples, method.is_sequential) == (True, False, False)
    assert sorted(["imported_b", "random", "imported_a", "dense"], key=sort_key) == [
        "dense",
        "random",
        "imported_a",
        "imported_b",
    ]


@pytest.mark.parametrize(
    ("name", "checkpoints"), [("imported", ""), ("imported_", ""), ("imported_A", "A"), ("imported_a_on_c4", "a_on_c4")]
)
def test_a_name_that_imported_checkpoints_cannot_have_is_refused(name, checkpoints):
    with pytest.raises(InputError, match=f"^method '{name}': '{checkpoints}' is not the name of imported checkpoints"):
        get_method(name)


def test_a_method_on_a_text_is_sorted_behind_the_method_on_the_task():
    names = ["dense"]
    for name, method in METHODS.items():
        names += [name, f"{name}_on_c4", f"{name}_on_pile"] if method.uses_examples else [name]
    assert sorted(set(names), key=sort_key) == names
