"""Say in the terminal what a study does: what it makes again, the result of each run, errors, the findings, a wrong target.

The workflow reports its events here. Nothing here imports Snakemake.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

import sparseft
from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.configfiles import complete, read_sections
from sparseft.study.grid import CONFIGURATION, FINDINGS, REPORT, RUN_ID, ResultPaths, Run, fill

# What bash says of a process that SIGKILL ended.
KILLED = re.compile(r": line \d+: +\d+ Killed ")
# What a job says of its steps, decoder layers or matrices.
PROGRESS = re.compile(r"[a-z ]+ \d+ of \d+\b")
STAGES = ("prepare", "masks", "train", "validate", "evaluate", "analyze", "throughput", "engines")
# Keys whose change makes no run again.
_WITHOUT_RUNS = re.compile(
    r"results$|throughput\.|analysis\.|export\.|resources\.(memory_mb|minutes)|grid\.(?!trainings)"
)
# Pattern of a changed key -> how to keep what was made with the old value. The first pattern that fits a key counts.
_TO_KEEP_BOTH = {
    r"models\.": "another name under models:",
    r"masks\.|tasks\.\w+\.(?!training)": "a study in another folder, because data/ and masks/ are shared",
    r"(tasks\.\w+\.|grid\.)?training": "grid.trainings, or a results folder of its own (results: results/NAME)",
    "": "a results folder of its own (results: results/NAME)",
}


def made_again(config: Config, planned: list[Path]) -> str:
    """Return one sentence on the runs that a plan makes again, and why; empty if there are none.

    A setting was changed, or an earlier version made them. `planned` are the outputs of the plan that exist already."""
    runs = Path(config.paths.runs)
    folders = {runs / path.relative_to(runs).parts[0] for path in planned if path.is_relative_to(runs)}
    if not folders:
        return ""
    if changed := _changed_settings(config):
        advice = next(way for keys, way in _TO_KEEP_BOTH.items() if any(re.match(keys, key) for key in changed))
        count = f"{len(folders)} run{'s are' if len(folders) > 1 else ' is'} made again"
        return f"{', '.join(changed.values())}: {count}; keep both with {advice}"
    versions = []
    for folder in folders:
        with suppress(InputError, LookupError, TypeError):
            versions.append(str(read_json(folder / "train.json")["versions"]["sparseft"]))
    earlier = [version for version in versions if version != sparseft.__version__]
    if not earlier:
        return ""
    count = f"{len(earlier)} run{'s' * (len(earlier) > 1)} in {runs}"
    by = f"made by an earlier version (sparseft {', '.join(sorted(set(earlier)))}, now {sparseft.__version__})"
    return f"{count}: {by}, and made again, because the code that makes them has changed"


def _changed_settings(config: Config) -> dict[str, str]:
    """Return by its key each setting that differs from the last analysis of the results folder, with both values."""
    try:
        earlier = _values(read_sections(Path(config.paths.analysis) / CONFIGURATION))
    except InputError:
        return {}
    now = _values(complete(config, Path.cwd()).model_dump(mode="json"))
    # In a complete configuration, the schedule of each task is whole, and `training` decides nothing.
    unread = ("training.", *(f"tasks.{name}." for name in config.tasks if name not in config.grid.tasks))
    changed = [
        key
        for key in now
        if earlier.get(key, now[key]) != now[key] and not (_WITHOUT_RUNS.match(key) or key.startswith(unread))
    ]
    return {key: f"{key} is {_text(now[key])} instead of {_text(earlier[key])}" for key in changed}


def _values(sections: dict, prefix: str = "") -> dict[str, object]:
    """Return the values of a configuration by their dotted keys."""
    values: dict[str, object] = {}
    for name, value in sections.items():
        values |= _values(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _text(value: object) -> str:
    """Return a value as the configuration writes it, at most 60 characters."""
    return shorten(value if isinstance(value, str) else json.dumps(value), 60, placeholder="...")


def result(
    wildcards: Mapping[str, str], paths: ResultPaths, interval: Callable[[list[float]], tuple[float, float]]
) -> str:
    """Return the headline metric of the run with these wildcards on one line, and the overlap of its data if there is one.

    `interval` returns the ends of the interval of a run's outcomes. A record that cannot be read is reported, and stops
    nothing."""
    run = Run.parse(RUN_ID.format(**wildcards))
    try:
        record = read_json(Path(f"{fill(paths.run, run)}/evaluation.json"))
        text = f"{run.id}: {record['metric']} {record['value']:.3f}"
        if record.get("outcomes"):
            text += " [{:.3f}, {:.3f}]".format(*interval(record["outcomes"]))
        if record.get("overlap"):
            text += f", {100 * record['overlap']:.3g} % of it also occurs in training or calibration data"
        return text
    except (InputError, OSError, KeyError) as error:
        return f"note: {run.id}: its evaluation.json cannot be read: {error}"


def failure(log: Path, logs: Path) -> str:
    """Return a failed job, what is wrong and its log on one line; empty if the log in the folder `logs` has no such line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    # command.py prints both.
    errors = [line for line in lines if line.startswith("error: ") or line == "interrupted"]
    if not errors and any(KILLED.search(line) for line in lines):
        errors = [
            "error: the job was killed, as Linux does if memory runs out; request more memory, or lower its batch size"
        ]
    return f"{log.relative_to(logs).with_suffix('')}: {errors[-1]} (log: {log})" if errors else ""


def progress(log: Path) -> str:
    """Return the last line of a job's log that says how far it is; empty if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line for line in reversed(lines) if PROGRESS.match(line)), "")


def requested(jobs: Iterable[tuple[str, dict[str, int]]]) -> str:
    """Return a table of what the jobs of each rule request at most. `jobs` has the rule of each job, and its requests by name."""
    largest: dict[str, dict[str, int]] = {}
    for rule, requests in jobs:
        known = largest.setdefault(rule, dict.fromkeys(requests, 0))
        largest[rule] = {name: max(known[name], number) for name, number in requests.items()}
    names = next(iter(largest.values()), {})
    lines = [
        ("each job requests at most", *names),
        *((rule, *found.values()) for rule, found in sorted(largest.items())),
    ]
    return "\n".join(f"{line[0]:<26}" + "".join(f"{cell or '-':>12}" for cell in line[1:]) for line in lines)


def findings(folder: Path) -> str:
    """Return the findings of a study, and where its results page is."""
    file, page = folder / FINDINGS, folder / REPORT
    text = file.read_text(encoding="utf-8").rstrip() + "\n" if file.exists() else ""
    return text + (f"The results page: {page}" if page.exists() else f"Tables, figures and pages: {folder}/")


def check_target(config: Config, target: str, is_made: bool) -> None:
    """Raise InputError if the settings do not allow a target, or if it does not exist and no rule makes it."""
    path = target if os.path.isabs(target) else os.path.relpath(target)
    # Existing files too, because a job deletes its outputs before it reads its input.
    targets.check_measured(config, path)
    if os.path.exists(path):
        return
    targets.check_target(config, path)
    if not is_made:
        stages = ", ".join(STAGES)
        raise InputError(f"{target}: no stage and no rule makes it", f"name a file of the study, or a stage: {stages}")
