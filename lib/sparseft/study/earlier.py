"""Say before a study starts what it makes again, and why: a setting was changed, or another version made it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import sparseft
from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.study.configfiles import complete, read_sections
from sparseft.study.grid import CONFIGURATION

# Keys whose change makes no existing run again. Of `grid`, only the settings of a training do.
_WITHOUT_RUNS = {"results", "throughput", "analysis", "resources.memory_mb", "resources.minutes"}
_WITHOUT_RUNS |= {f"grid.{axis}" for axis in ("models", "tasks", "methods", "sparsities", "modes", "seeds")}
_OWN_RESULTS = "a results folder of its own (results: results/NAME)"
# A pattern of changed keys -> how to keep what was made with the old value. The first pattern that fits a key counts.
_TO_KEEP_BOTH = {
    r"models\.": "another name under models:",
    r"masks\.|tasks\.\w+\.(?!training)|perplexity\.(?!context)": "a study in another folder, because data/ and masks/ are shared",
    r"(?!(tasks\.\w+\.|grid\.)?training)": _OWN_RESULTS,
    "": f"grid.trainings, or {_OWN_RESULTS}",
}


def made_again(config: Config, planned: list[Path]) -> str:
    """Return one sentence on what a plan makes again; empty if it is nothing that the user should know before.

    `planned` are the outputs of the plan that exist already."""
    return _by_settings(config, planned) or _by_version(planned, config.paths.runs) or _shared(planned)


def _by_settings(config: Config, planned: list[Path]) -> str:
    """Return which settings changed since the last study in the results folder, if a run of it is made again."""
    runs = {path.relative_to(config.paths.runs).parts[0] for path in planned if path.is_relative_to(config.paths.runs)}
    try:
        earlier = read_sections(Path(config.paths.analysis) / CONFIGURATION)
    except InputError:
        return ""
    now = complete(config, Path.cwd()).model_dump(mode="json")
    used = {"models": config.grid.models, "tasks": [*config.grid.tasks, *config.evaluation.probes]}
    now |= {section: {name: now[section].get(name) for name in names} for section, names in used.items()}
    changes = _named(dict(_changes(earlier, now)))
    if not runs or not changes:
        return ""
    listed = ", ".join(f"{key} is {_text(new)} instead of {_text(old)}" for key, (old, new) in changes.items())
    advice = next(way for keys, way in _TO_KEEP_BOTH.items() if any(re.match(keys, key) for key in changes))
    count = "1 run is" if len(runs) == 1 else f"{len(runs)} runs are"
    return f"{listed}: {count} made again; keep both with {advice}"


def _changes(earlier: dict, now: dict, section: str = "") -> Iterator[tuple[str, tuple]]:
    """Yield each key that both configurations have with another value, from the first level down, and the two values."""
    for name in [name for name in now if name in earlier]:
        key = f"{section}{name}"
        old, new = earlier[name], now[name]
        if key in _WITHOUT_RUNS or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changes(old, new, f"{key}.")
        else:
            yield key, (old, new)


def _named(changes: dict[str, tuple]) -> dict[str, tuple]:
    """Return the changes of a training under the keys that the user wrote.

    A complete configuration has the whole training in each task, and only that one decides."""
    named: dict[str, tuple] = {}
    for key, values in changes.items():
        written = re.sub(r"^tasks\.\w+\.(?=training\.)", "", key)
        is_general = written in changes and changes[written][1] == values[1] and written not in named
        if not key.startswith("training."):
            named[written if is_general or named.get(written) == values else key] = values
    return named


def _text(value: object) -> str:
    """Return a value as the configuration writes it, at most 60 characters."""
    return shorten(value if isinstance(value, str) else json.dumps(value), 60, placeholder="...")


def _by_version(planned: list[Path], runs_folder: str) -> str:
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


def _shared(planned: list[Path]) -> str:
    """Return which prepared models, data and masks a plan makes again. Other results folders may depend on them."""
    shared = [path for path in planned if path.name == "manifest.json" or path.suffix == ".pt"]
    if not shared:
        return ""
    names = ", ".join(sorted({str(path.parent) for path in shared}))
    return (
        f"the plan makes {names} again, and everything that was made from it; if you changed a model's settings and want to"
        " keep both, give the changed model its own name under models:"
    )


def _version(train_json: Path) -> str:
    """Return the version that a training's record names, or `unknown`."""
    try:
        versions = read_json(train_json).get("versions")
    except InputError:
        return "unknown"
    return str(versions.get("sparseft", "unknown")) if isinstance(versions, dict) else "unknown"
