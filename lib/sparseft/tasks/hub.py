"""Load data sets from the Hugging Face hub.

A place on the hub is ORG/NAME[/CONFIGURATION][@REVISION], or ORG/NAME/FILE[@REVISION] for one file of a large data set.
"""

import re
from functools import cache
from pathlib import Path

from sparseft.errors import InputError
from sparseft.tasks.rows import problem_of
from sparseft.tasks.task import Row, RowFormat

COMMIT = r"[0-9a-f]{40}"
# The endings of the files that can be loaded one by one.
FILE_ENDINGS = (".json", ".jsonl", ".parquet", ".txt", ".gz", ".zst")


@cache
def hub_dataset(place: str, key: str) -> dict:
    """Return the splits of a data set on the hub by name, each a datasets.Dataset. One file is the split `train`.

    Raises InputError if it cannot be loaded. The user may then go online, or set `key` of the configuration."""
    # The import takes a second, and rows from a folder do not need it.
    from datasets import load_dataset

    remedy = f"set {key} to a local copy (docs/tasks.md)"
    path, _, revision = place.partition("@")
    organisation, name, *parts = path.split("/")
    if parts and path.endswith(FILE_ENDINGS):
        part = {"data_files": {"train": "/".join(parts)}}
    else:
        part = {"name": parts[0]} if parts else {}
    # `load_dataset` would load the folder, whatever the revision.
    if Path(organisation, name).exists():
        raise InputError(f"{place}: a folder here has the name of the data set on the hub", f"rename it, or {remedy}")
    try:
        dataset = load_dataset(f"{organisation}/{name}", **part, revision=revision or None)
    # The client raises a dozen kinds of errors for a data set that cannot be loaded.
    except Exception as error:
        raise InputError(
            f"{place} cannot be loaded from the hub ({type(error).__name__})", f"go online, or {remedy}"
        ) from None
    loaded = loaded_revision(dataset)
    # Offline, `load_dataset` returns whatever revision is in the cache.
    if loaded and re.fullmatch(COMMIT, revision) and loaded != revision:
        raise InputError(f"{place}: this machine has only revision {loaded}", f"go online, or {remedy}")
    return dataset


def loaded_revision(dataset: dict) -> str | None:
    """Return the commit of a data set from the hub; None if it is from elsewhere. `datasets` names its cache folder by it."""
    first_split = next(iter(dataset.values()))
    folder = Path(first_split.cache_files[0]["filename"]).parent.name
    return folder if re.fullmatch(COMMIT, folder) else None


def hub_source(place: str, dataset: dict) -> dict:
    """Return the source of rows from the hub: their place without the requested revision, and the loaded revision."""
    return {"hub": place.partition("@")[0], "revision": loaded_revision(dataset)}


def rows_of_split(dataset: dict, split: str, place: str, row_format: RowFormat) -> list[Row]:
    """Return the rows of a split, converted and checked like the rows of a file.

    Raises InputError if the split is missing or a row does not have the format."""
    if split not in dataset:
        raise InputError(f"{place} has no split {split}, only {', '.join(dataset)}", "name another data set")
    rows = [row_format.converted(row) for row in dataset[split]]
    for number, row in enumerate(rows, start=1):
        if problem := problem_of(row, row_format):
            raise InputError(f"{place}, split {split}, row {number}: {problem}", "name another data set or revision")
    return rows
