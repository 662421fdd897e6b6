"""Define semistructured: of every 4 weights in a row, those with the lowest scores. At 50 % it is 2:4."""

from functools import partial

from sparseft.axes.patterns.pattern import Pattern
from sparseft.axes.selection.ranking import by_group


def in_groups(name: str, group: int) -> Pattern:
    """Return the pattern that ranks every `group` consecutive weights of a row by themselves: N:M, with M = `group`."""
    return Pattern(
        name,
        select=partial(by_group, group=group),
        words=f"some of every {group} weights in a row (N:{group})",
        scope="group",
        takes_counts=True,
        updates=("sparsegpt",),
        group=group,
    )


SEMISTRUCTURED = in_groups("semistructured", 4)
