"""Write the configuration of a study to a file.

    write_configuration.py --text TEXT --manifests models/a/manifest.json --output results/analysis/configuration.yaml

The workflow makes the text, because only Snakemake knows what --config added to the configuration files.
"""

from pathlib import Path
from typing import Any

import yaml

from sparseft.storage.atomic import atomic_file
from sparseft.storage.outputs import check_ours
from sparseft.storage.revisions import fetched
from sparseft.study.config import Config
from sparseft.study.configfiles import written


def settings(config: Config, wildcards: Any) -> dict:
    """Return the text of the configuration."""
    return {"text": written(config)}


# Raise it when the results change.
VERSION = 1


def run(*, text: str, output: Path, manifests: list[Path]) -> None:
    """Write the text, and behind it the revisions. Those of manifests that are gone stay, if the file has them.

    Args:
        text: content of the file
        output: the file
        manifests: of the models, tasks and texts, whose revisions on the hub are added
    """
    # The first line says what the file is.
    check_ours(output, text.partition("\n")[0])
    earlier = yaml.safe_load(output.read_text(encoding="utf-8")).get("revisions") if output.exists() else None
    revisions = {**(earlier or {}), **fetched(filter(Path.exists, manifests))}
    with atomic_file(output) as temporary:
        temporary.write_text(text + yaml.safe_dump({"revisions": revisions}), encoding="utf-8")
