"""What an earlier version of SparseFT left in a study's folder, and what a new one makes again of it."""

from pathlib import Path

import sparseft
from sparseft.errors import InputError
from sparseft.storage.ownership import adopt
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.grid import MODEL


def made_again(planned: list[Path], runs_folder: str) -> str:
    """Return which of the planned files an earlier version made; empty if no training was made by one.

    Only a training's record names its version: it stands for the model and the masks that it was made with."""
    version_of = {path.parent.name: _version(path) for path in Path(runs_folder).glob("*/train.json")}
    versions = sorted(set(version_of.values()) - {sparseft.__version__})
    if not versions:
        return ""
    models = sorted({str(path.parent) for path in planned if path.match("models/*/manifest.json")})
    masks = sum(path.suffix == ".pt" for path in planned)
    run_ids = {path.relative_to(runs_folder).parts[0] for path in planned if path.is_relative_to(runs_folder)}
    runs = sum(version_of.get(run_id) != sparseft.__version__ for run_id in run_ids)
    counts = ((masks, "mask", ""), (runs, "run", f" in {runs_folder}"))
    named = ", ".join(models + [f"{count} {word}{'s' * (count > 1)}{place}" for count, word, place in counts if count])
    if not named:
        return ""
    return (
        f"{named}: made by an earlier version (sparseft {', '.join(versions)}, now {sparseft.__version__}), and made again,"
        " because the code that makes them has changed"
    )


def adopt_models(config: Config) -> None:
    """Mark the prepared models of the grid as this project's, if an earlier version left them without the mark."""
    for name in config.grid.models:
        adopt(Path(MODEL.format(model=name)))


def _version(train_json: Path) -> str:
    """Return the version that a training's record names, or `unknown`."""
    try:
        versions = read_json(train_json).get("versions")
    except InputError:
        return "unknown"
    return str(versions.get("sparseft", "unknown")) if isinstance(versions, dict) else "unknown"
