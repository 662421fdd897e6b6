"""Define semistructured: of every M = `masks.nm_group` weights in a row, those with the lowest scores (N:M)."""

from sparseft.patterns.pattern import Pattern

SEMISTRUCTURED = Pattern(
    "semistructured",
    select=lambda ranking: ranking.by_group(ranking.settings.nm_group),
    words="some weights of each small group in a row (N:M)",
    scope="group",
    settings=("nm_group",),
    takes_counts=True,
    has_groups=True,
)
