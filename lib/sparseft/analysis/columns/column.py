"""Describe a column of a table: what it holds, its type, its unit, when it is empty, and where its value comes from."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

TRAINED_ONLY = "the run was not trained"
PRUNABLE = "fraction of the prunable weights"
PERCENT = "percent of the prunable weights"
NATS = "nats per answer token"
# The unit of a headline metric.
OF_VALUE = "fraction; nats per token if metric is loss"
# The unit of an overlap.
SHARE_SEEN = "fraction of the examples; of a text: of its windows of 13 words"
EXAMPLES_PER_SECOND = "examples per second"
TOKENS_PER_SECOND = "tokens per second, without padding"


@dataclass(frozen=True)
class Column:
    """Describe one column. `type` is text, version, integer, number or true/false. `empty` says when it has no value.

    `source` is the path of attributes and keys from the object of a row to the value. A column that is computed from another
    table, or from other columns, has none. A name such as `wikitext2_ppl_N` or `probe_NAME` stands for several columns: one
    for each key of the dictionary at `source` that matches it. An optional column exists only if a row has a value."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    empty: str = "never"
    source: str = ""
    is_optional: bool = False

    def describes(self, name: str) -> bool:
        """Return whether a column of this name in a file is described here."""
        if not self._is_family:
            return name == self.name
        pattern = re.sub("NAME|N$", ".+", self.name)
        return re.fullmatch(pattern, name) is not None

    def among(self, names: Collection[str]) -> list[str]:
        """Return those of `names` that are described here, in their order."""
        if self._is_family:
            return [name for name in names if self.describes(name)]
        return [self.name] if self.name in names else []

    def values_of(self, row: object) -> dict[str, object]:
        """Return the values of a row by name: none, one, or those of every key that the name stands for."""
        value = _follow(row, self.source)
        if self._is_family:
            return {name: number for name, number in value.items() if self.describes(name)}
        return {} if self.is_optional and value is None else {self.name: value}

    @property
    def _is_family(self) -> bool:
        """Return whether the name stands for several columns."""
        return self.name.endswith("_N") or "_NAME" in self.name


@dataclass(frozen=True)
class TableDescription:
    """Describe one file of results/analysis/: what a row is, and its columns in their order."""

    file: str
    about: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Return the names of the columns."""
        return [column.name for column in self.columns]

    @property
    def row(self) -> str:
        """Return the sentence that says what a row is, which is the first of `about`."""
        return self.about.partition(". ")[0].removesuffix(".") + "."

    def type_of(self, name: str) -> str:
        """Return the type of a column that the file may have."""
        return next(column.type for column in self.columns if column.describes(name))

    def row_of(self, row: object) -> dict[str, object]:
        """Return the values of a row by column, each from the source of its column. A column without one is left out."""
        taken = [column for column in self.columns if column.source]
        return {name: value for column in taken for name, value in column.values_of(row).items()}

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return the names that a column describes, in the order of the columns."""
        names = dict.fromkeys(names)
        return list(dict.fromkeys(name for column in self.columns for name in column.among(names)))


def like(table: TableDescription, names: str, part: str = "", empty: str | None = None) -> tuple[Column, ...]:
    """Return columns of another table by their names, with another sentence on when they are empty if it is given.

    The values are the attributes of these names of `part` of a row's object. Without `part` they are computed elsewhere."""
    known = {column.name: column for column in table.columns}
    columns = []
    for name in names.split():
        column = replace(known[name], source=f"{part}.{name}" if part else "")
        columns.append(column if empty is None else replace(column, empty=empty))
    return tuple(columns)


def _follow(row: object, path: str) -> object:
    """Return the value at a path of attributes and keys; None if a part of it is None or an absent key."""
    value = row
    for name in path.split("."):
        if value is None:
            return None
        value = value.get(name) if isinstance(value, dict) else getattr(value, name)
    return value
