"""Fix the revisions of places on the Hugging Face hub that have none of their own.

The study says them in the environment variable SPARSEFT_REVISIONS, as PLACE=COMMIT, with blanks between them. A place
is hub:ORG/NAME for a model, and ORG/NAME[/CONFIGURATION or /FILE] for data."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sparseft.storage.reading import read_json

VARIABLE = "SPARSEFT_REVISIONS"


def fix(revisions: Mapping[str, str]) -> None:
    """Fix the revisions of these places, for this process and all that it starts."""
    os.environ[VARIABLE] = " ".join(f"{place}={commit}" for place, commit in revisions.items())


def fixed(place: str) -> str:
    """Return a place with its revision: its own, or else that which the study fixes, or else none."""
    revisions = dict(entry.rsplit("=", 1) for entry in os.environ.get(VARIABLE, "").split())
    return f"{place}@{revisions[place]}" if place in revisions else place


def fetched(manifests: Iterable[Path]) -> dict[str, str]:
    """Return the commits of the places on the hub that these manifests of models, tasks and texts record."""
    revisions: dict[str, str] = {}
    for manifest in manifests:
        record = read_json(manifest)
        source = record.get("source")
        if isinstance(source, dict):
            place, commit = source.get("hub"), source.get("revision")
        else:
            place, commit = source, record.get("revision")
        if place and commit and "@" not in place:
            revisions[place] = commit
    return revisions
