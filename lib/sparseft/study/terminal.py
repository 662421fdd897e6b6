"""Say in the terminal what a study does: the result of each run that ends, the findings, and what is wrong with a target.

The workflow reports its events here. Nothing here imports Snakemake.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.grid import FINDINGS, REPORT, RUN_ID, ResultPaths, Run, fill

STAGES = ("masks", "train", "validate", "evaluate", "analyze", "throughput")


def result(
    wildcards: Mapping[str, str], paths: ResultPaths, interval: Callable[[list[float]], tuple[float, float]]
) -> str:
    """Return the headline metric of the run with these wildcards on one line, and the overlap of its data if there is one.

    `interval` returns the ends of the interval of a run's outcomes. A record that cannot be read is reported, and stops nothing."""
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


def findings(folder: Path) -> str:
    """Return the findings of a study, and where its results page is."""
    lines = []
    if (folder / FINDINGS).exists():
        lines.append((folder / FINDINGS).read_text(encoding="utf-8").rstrip())
    page = folder / REPORT
    lines.append(f"The results page: {page}" if page.exists() else f"Tables, figures and pages: {folder}/")
    return "\n".join(lines)


def check_target(config: Config, target: str, is_made: bool) -> None:
    """Raise InputError if the settings do not allow a target, or if it does not exist and is not made by any rule."""
    path = target if os.path.isabs(target) else os.path.relpath(target)
    # Existing files too, because a job deletes its outputs before it reads its input.
    targets.check_settings(config, path)
    if os.path.exists(path) or target in STAGES:
        return
    targets.check_target(config, path)
    if not is_made:
        stages = ", ".join(STAGES)
        raise InputError(f"{target}: no stage and no rule makes it", f"name a file of the study, or a stage: {stages}")
