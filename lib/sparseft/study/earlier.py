"""Say before a study starts what an earlier version made, and this one makes again."""

from pathlib import Path

import sparseft
from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study.config import Config


def made_again(config: Config, planned: list[Path]) -> str:
    """Return one sentence on the runs that a plan makes again because an earlier version made them; empty if there are none.

    `planned` are the outputs of the plan that exist already."""
    runs = Path(config.paths.runs)
    folders = {runs / path.relative_to(runs).parts[0] for path in planned if path.is_relative_to(runs)}
    versions = [_version(folder / "train.json") for folder in folders]
    earlier = [version for version in versions if version not in (None, sparseft.__version__)]
    if not earlier:
        return ""
    count = f"{len(earlier)} run{'s' * (len(earlier) > 1)} in {runs}"
    by = f"made by an earlier version (sparseft {', '.join(sorted(set(earlier)))}, now {sparseft.__version__})"
    return f"{count}: {by}, and made again, because the code that makes them has changed"


def _version(train_json: Path) -> str | None:
    """Return the version that the record of a training names; None without such a record."""
    try:
        return str(read_json(train_json)["versions"]["sparseft"])
    except (InputError, LookupError, TypeError):
        return None
