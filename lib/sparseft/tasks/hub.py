"""Load data sets from the Hugging Face hub. A place on the hub is ORG/NAME[/CONFIGURATION][@REVISION]."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sparseft.errors import InputError
from sparseft.tasks.rows import problem_of
from sparseft.tasks.task import Row, RowFormat

COMMIT = r"[0-9a-f]{40}"


@cache
def hub_dataset(place: str, section: str, local_kind: str) -> dict:
    """Return the splits of a data set on the hub by name, each a datasets.Dataset.

    Raises InputError if it cannot be loaded. The user may then go online or set `local` of the configuration's `section`,
    which takes a `local_kind`."""
    # The import takes a second, and rows from a folder do not need it.
    from datasets import load_dataset

    remedy = f"set {section}.local to {local_kind}"
    path, _, revision = place.partition("@")
    organisation, name, *configuration = path.split("/")
    # `load_dataset` would load the folder, whatever the revision.
    if Path(organisation, name).exists():
        raise InputError(f"{place}: a folder here has the name of the data set on the hub", f"rename it, or {remedy}")
    try:
        dataset = load_dataset(f"{organisation}/{name}", *configuration, revision=revision or None)
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


def rows_of_split(
    dataset: dict, split: str, place: str, row_format: RowFormat, from_hub: Callable[[Row], Row] = dict
) -> list[Row]:
    """Return the rows of a split, each converted by `from_hub` and checked like the rows of a file.

    Raises InputError if the split is missing or a row does not have the format."""
    if split not in dataset:
        raise InputError(f"{place} has no split {split}, only {', '.join(dataset)}", "name another data set")
    rows = [from_hub(row) for row in dataset[split]]
    for number, row in enumerate(rows, start=1):
        if problem := problem_of(row, row_format):
            raise InputError(
                f"{place}, split {split}, row {number}: {problem}",
                "name another data set or revision, or give a local copy without the row",
            )
    return rows
