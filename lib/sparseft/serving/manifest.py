"""Define manifest.json of an exported run."""

from typing import ClassVar

from sparseft.models.checkpoints.manifests import CheckpointManifest
from sparseft.storage.fields import field


class ExportManifest(CheckpointManifest):
    """Record an exported run: manifest.json."""

    known_by: ClassVar[str] = '\n  "why_not_smaller": '
    run_id: str = field("The run.")
    source: str = field("Where its dense model comes from, without the folders of the machine.")
    dense: str = field("The digest of its dense model.")
    merged: dict[str, str] = field("The sha256 of each file of the merged model.")
    mask: str = field("The sha256 of the mask.")
    why_not_smaller: str | None = field("Why no channel was left out. Null if the model is smaller.")
    licence: dict[str, str] = field("What the README.md of its dense model states of the licence.")
