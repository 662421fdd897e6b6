"""Say before a study starts which runs it makes again, and why: a setting was changed, or an earlier version made them."""

import json
import re
from pathlib import Path
from textwrap import shorten

import sparseft
from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.configfiles import complete, read_sections
from sparseft.study.grid import CONFIGURATION

# Keys whose change makes no run again.
_WITHOUT_RUNS = re.compile(r"results$|throughput\.|analysis\.|resources\.(memory_mb|minutes)|grid\.(?!trainings)")
# Pattern of a changed key -> how to keep what was made with the old value. The first pattern that fits a key counts.
_TO_KEEP_BOTH = {
    r"models\.": "another name under models:",
    r"masks\.|tasks\.\w+\.(?!training)": "a study in another folder, because data/ and masks/ are shared",
    r"(tasks\.\w+\.|grid\.)?training": "grid.trainings, or a results folder of its own (results: results/NAME)",
    "": "a results folder of its own (results: results/NAME)",
}


def made_again(config: Config, planned: list[Path]) -> str:
    """Return one sentence on the runs that a plan makes again; empty if there are none.

    `planned` are the outputs of the plan that exist already."""
    runs = Path(config.paths.runs)
    folders = {runs / path.relative_to(runs).parts[0] for path in planned if path.is_relative_to(runs)}
    return _by_settings(config, len(folders)) or _by_version(runs, folders) if folders else ""


def _by_settings(config: Config, count: int) -> str:
    """Return which settings differ from those of the last analysis of the results folder; empty if none does."""
    try:
        earlier = _values(read_sections(Path(config.paths.analysis) / CONFIGURATION))
    except InputError:
        return ""
    now = _values(complete(config, Path.cwd()).model_dump(mode="json"))
    changed = {key: value for key, value in now.items() if key in earlier and earlier[key] != value}
    changed = {key: value for key, value in changed.items() if not _WITHOUT_RUNS.match(key)}
    # A complete configuration has the whole schedule in each task. The user wrote it once.
    general = [key for key in changed if key.startswith("training.")]
    changed = {
        key: value for key, value in changed.items() if not key.startswith("tasks.") or not key.endswith(tuple(general))
    }
    if not changed:
        return ""
    listed = ", ".join(f"{key} is {_text(value)} instead of {_text(earlier[key])}" for key, value in changed.items())
    advice = next(way for keys, way in _TO_KEEP_BOTH.items() if any(re.match(keys, key) for key in changed))
    return f"{listed}: {count} run{'s are' if count > 1 else ' is'} made again; keep both with {advice}"


def _values(sections: dict, prefix: str = "") -> dict[str, object]:
    """Return the values of a configuration by their dotted keys."""
    values: dict[str, object] = {}
    for name, value in sections.items():
        values |= _values(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _text(value: object) -> str:
    """Return a value as the configuration writes it, at most 60 characters."""
    return shorten(value if isinstance(value, str) else json.dumps(value), 60, placeholder="...")


def _by_version(runs: Path, folders: set[Path]) -> str:
    """Return how many of the runs an earlier version made; empty if none."""
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
