"""List the methods: what is removed (pattern), by which score (importance), and how much of each layer (allocation).

A method is named PATTERN, which means the importance magnitude, or PATTERN_IMPORTANCE. `random` has no importance.
`experts` and `layers` always have one. `dense` is the method of the runs at sparsity 0, which keep every weight.

Every layer loses the same share of its weights, unless the name ends in an allocation: PATTERN_owl or
PATTERN_IMPORTANCE_owl.

With _refit after the importance, the kept weights change so that they make up for what the importance pruned.

A method that looks at examples takes those of the task, and one that removes units what the dense model samples. With
_on_task after its name it takes those of the task, and with _on_NAME those of a text, which `masks.calibration`
describes under this NAME. `self` is the text that the dense model samples. If the task's examples are a part of a text,
its NAME begins with `task`, so that the name of a method says whether its masks depend on a task.

imported_NAME has the masks and the weights of checkpoints that another tool pruned. `masks.imported` describes them
under NAME.
"""

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property

from sparseft.axes.importances import DEFAULT, HESSIAN, IMPORTANCES, WANDA, Importance, Statistic
from sparseft.axes.patterns import PATTERNS, Pattern
from sparseft.common.errors import InputError

DENSE = Pattern("dense", select=lambda ranking: ranking.keep_all(), has_importance=False)
# What another tool ranked together is not known. There is one method for every NAME under `masks.imported`.
IMPORTED = Pattern(
    "imported",
    words="weights that another tool removed",
    scope="unknown",
    has_importance=False,
    has_exact_counts=False,
)


@dataclass(frozen=True)
class Allocation:
    """Describe how the pruned weights are divided among the layers. It looks at examples."""

    name: str
    # How, in words for the results page.
    words: str
    # The importance by whose scores in the dense model it divides them.
    importance: Importance
    # The keys of `masks:` that it uses.
    settings: tuple[str, ...]
    # What the masks' metadata says about what it computes from the examples.
    accumulated: str


# pruning/allocation.py has its source and its formula.
OWL = Allocation(
    "owl",
    words="fewer from layers with outliers",
    importance=WANDA,
    settings=("owl_lambda", "owl_m"),
    accumulated="outliers by decoder layer, from the norms of the dense model's inputs",
)


@dataclass(frozen=True)
class Update:
    """Describe how the kept weights change after an importance has chosen what is pruned. It looks at examples.

    Algorithms that choose and update in one are importances. pruning/updates.py has both."""

    name: str
    # What it computes from the examples.
    statistic: Statistic
    # The keys of `masks:` that it uses.
    settings: tuple[str, ...]


# pruning/obs.py has its source and its formula.
REFIT = Update("refit", HESSIAN, ("damping",))
# Stands between the importance and the name of a text.
ON = "_on_"
TEXT_NAME = "[a-z0-9]+"
# The text that the dense model samples, and the part of a text that is the examples of the run's task.
SELF, TASK = "self", "task"


@dataclass(frozen=True)
class Method:
    """Combine a pattern, an importance, an update and an allocation.

    `random`, `dense` and imported masks have no importance. Without an update, or an importance that has one, the kept
    weights stay as they are. Without an allocation, every layer loses the same share."""

    pattern: Pattern
    importance: Importance | None
    update: Update | None = None
    allocation: Allocation | None = None
    # The name of the text whose examples the method looks at; None if they are the task's, or if it looks at none.
    calibration: str | None = None
    # The name under `masks.imported` of the checkpoints that another tool pruned; None if this project computes the
    # masks.
    imported: str | None = None

    @cached_property
    def name(self) -> str:
        """Return the name in paths and tables. It leaves out the default importance."""
        importance = None if self.importance is DEFAULT else self.importance
        name = "_".join(part.name for part in (self.pattern, importance, self.update, self.allocation) if part)
        if self.imported:
            return f"{name}_{self.imported}"
        return name if self.calibration == self.own_calibration else f"{name}{ON}{self.calibration or TASK}"

    @property
    def own_calibration(self) -> str | None:
        """Return the text that the method looks at if its name says nothing; None if it is the task's examples or
        nothing.

        What removes units must keep a language model, and one task says little about it (docs/results.md)."""
        return SELF if self.uses_examples and self.pattern.removes != "weights" else None

    @property
    def words(self) -> str:
        """Return what is removed, by which score, and how it is divided among the layers, in words for the results
        page."""
        score = f"with the lowest {self.importance.name} score {self.importance.formula}" if self.importance else ""
        division = self.allocation.words if self.allocation else ""
        text = f"scored on the text {self.calibration}" if self.calibration else ""
        removed = f"{self.pattern.words} {score}".strip()
        update = "the kept weights are updated" if self.updates_weights else ""
        return ", ".join(filter(None, (removed, division, text, update)))

    @property
    def uses_examples(self) -> bool:
        """Return whether the masks depend on examples, of a task or of a text."""
        return self.update is not None or any(value.uses_examples for value in self.importances)

    @property
    def importances(self) -> list[Importance]:
        """Return the importances that decide what is pruned: that of the allocation, and that of the scores."""
        return [value for value in (self.allocation and self.allocation.importance, self.importance) if value]

    @property
    def statistics(self) -> list[Statistic]:
        """Return what is computed from the examples, each statistic once."""
        values = (*self.importances, self.update)
        return list(dict.fromkeys(value.statistic for value in values if value and value.statistic))

    @property
    def uses_task(self) -> bool:
        """Return whether the masks depend on the examples of a task."""
        return self.uses_examples and (self.calibration or TASK).startswith(TASK)

    @property
    def algorithm(self) -> str | None:
        """Return the name in pruning/updates.py of what changes the kept weights; None if they stay as they are."""
        if self.update:
            return self.update.name
        return self.importance.update if self.importance else None

    @property
    def updates_weights(self) -> bool:
        """Return whether the kept weights get other values."""
        return self.imported is not None or self.algorithm is not None

    @property
    def has_pruned_base(self) -> bool:
        """Return whether the runs start from a checkpoint of the method, with updated weights or fewer, and not from
        the model."""
        return self.updates_weights or self.pattern.units is not None

    @property
    def is_sequential(self) -> bool:
        """Return whether `masks.sequential` applies: the inputs of a layer depend on the pruned layers before it."""
        return self.looks_at_inputs and not self.algorithm and self.pattern.removes == "weights"

    @property
    def looks_at_inputs(self) -> bool:
        """Return whether the scores look at the inputs of a layer.

        Then the score of a channel or head is the sum over its columns of the last matrix, because their inputs are
        what the channel computes. The inputs of its rows are the hidden states, which say nothing about it."""
        statistic = self.importance.statistic if self.importance else None
        return statistic is not None and not statistic.of_gradients

    @property
    def settings(self) -> list[str]:
        """Return the keys of `masks:` that the parts of the method use."""
        parts = (self.pattern, self.importance, self.update, self.allocation)
        return list(dict.fromkeys(key for part in parts if part for key in part.settings))

    @property
    def accumulated(self) -> str:
        """Return what is computed from the examples, in words; empty if the method looks at none."""
        computed = [part.statistic.words for part in (self.importance, self.update) if part and part.statistic]
        own = [part.accumulated for part in (self.importance, self.allocation) if part]
        return "; ".join(filter(None, (*own[:1], *computed, *own[1:])))


def _methods() -> list[Method]:
    """Return every method: first those with the default importance or none, then the others by pattern.

    Each is followed by the same method with an update, and with the allocation, if its pattern allows it."""
    plain = [pattern for pattern in PATTERNS if not pattern.has_importance or pattern.allows(DEFAULT)]
    methods = [Method(pattern, DEFAULT if pattern.has_importance else None) for pattern in plain]
    others = [importance for importance in IMPORTANCES if importance is not DEFAULT]
    for pattern in PATTERNS:
        methods += [Method(pattern, importance) for importance in others if pattern.allows(importance)]
    variants = []
    for method in methods:
        variants.append(method)
        if REFIT.name in method.pattern.updates and not method.algorithm:
            variants.append(replace(method, update=REFIT))
        if method.pattern.takes_counts:
            variants.append(replace(method, allocation=OWL))
    return [replace(method, calibration=method.own_calibration) for method in variants]


# The methods that need no text and no other tool, by name, in the order of the study.
METHODS = {method.name: method for method in _methods()}


@cache
def get_method(name: str) -> Method:
    """Return the method called `name`, `dense` included. Raises InputError if there is none."""
    if name == DENSE.name:
        return Method(DENSE, None)
    if match := re.fullmatch(f"{IMPORTED.name}_({TEXT_NAME})", name):
        return Method(IMPORTED, None, imported=match[1])
    base, on, text = name.partition(ON)
    method = METHODS.get(base)
    if method and not on:
        return method
    if method and method.uses_examples and re.fullmatch(TEXT_NAME, text):
        named = replace(method, calibration=None if text == TASK else text)
        # A method has one name, which leaves out the text that it looks at anyway.
        if named.name == name:
            return named
    of_part = [
        known
        for known, other in METHODS.items()
        if name in (other.pattern.name, other.importance and other.importance.name)
        and not (other.update or other.allocation)
    ]
    close = [base] if method else get_close_matches(name, METHODS)
    meant = " or ".join(of_part or close)
    advice = f"did you mean {meant}? " if meant else ""
    raise InputError(f"method {name!r} is unknown", f"{advice}docs/methods.md lists all methods")


def sort_key(name: str) -> str:
    """Return the key by which methods are sorted: `dense`, then as in METHODS, each followed by its variants on texts.

    Imported masks come last. Raises InputError if there is no such method."""
    method = get_method(name)
    base, _, text = name.partition(ON)
    position = [DENSE.name, *METHODS, IMPORTED.name].index(IMPORTED.name if method.imported else base)
    return f"{position:03d} {method.imported or text}"
