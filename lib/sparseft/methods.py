"""List the methods: what is removed (the pattern), and by which score (the importance).

A method is named PATTERN, which means the importance magnitude, or PATTERN_IMPORTANCE. `random` has no importance. `dense` is
the method of the runs at sparsity 0, which keep every weight.
"""

from dataclasses import dataclass
from functools import cached_property

from sparseft.errors import InputError
from sparseft.importances import DEFAULT, IMPORTANCES, Importance


@dataclass(frozen=True)
class Pattern:
    """Describe what is removed together."""

    name: str
    # What is ranked together; None if `masks.scope` and the importance decide it.
    scope: str | None = None
    # The keys of `masks:` that the pattern uses.
    settings: tuple[str, ...] = ()
    has_importance: bool = True
    removes_channels: bool = False


UNSTRUCTURED = Pattern("unstructured", settings=("scope",))
STRUCTURED = Pattern("structured", scope="layer", removes_channels=True)
SEMISTRUCTURED = Pattern("semistructured", scope="group", settings=("nm_group",))
RANDOM = Pattern("random", settings=("seed", "scope"), has_importance=False)
DENSE = Pattern("dense", has_importance=False)
PATTERNS = (UNSTRUCTURED, STRUCTURED, SEMISTRUCTURED, RANDOM)


@dataclass(frozen=True)
class Method:
    """Combine a pattern and an importance, which is None for `random` and `dense`."""

    pattern: Pattern
    importance: Importance | None

    @cached_property
    def name(self) -> str:
        """Return the name in paths and tables. It leaves out the default importance."""
        if self.importance in (None, DEFAULT):
            return self.pattern.name
        return f"{self.pattern.name}_{self.importance.name}"

    @property
    def uses_examples(self) -> bool:
        """Return whether the masks depend on the examples of a task."""
        return self.importance is not None and self.importance.uses_examples

    @property
    def is_sequential(self) -> bool:
        """Return whether `masks.sequential` applies to the method."""
        return self.importance is not None and self.importance.is_sequential


def _methods() -> list[Method]:
    """Return every method: first those with the default importance or none, then the others by pattern."""
    methods = [Method(pattern, DEFAULT if pattern.has_importance else None) for pattern in PATTERNS]
    others = [importance for importance in IMPORTANCES if importance is not DEFAULT]
    for pattern in PATTERNS:
        methods += [Method(pattern, importance) for importance in others if pattern.name in importance.patterns]
    return methods


METHODS = {method.name: method for method in _methods()}
DENSE_METHOD = Method(DENSE, None)


def get_method(name: str) -> Method:
    """Return the method called `name`, `dense` included. Raises InputError if there is none."""
    if name == DENSE.name:
        return DENSE_METHOD
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown", f"choose one of {', '.join(METHODS)}")
    return METHODS[name]
