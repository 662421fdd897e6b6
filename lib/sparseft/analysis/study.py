"""Read a study into two data frames: its runs, a row each, and the scores of their examples, a row per run and column.

Everything else is computed from the two. A run that cannot be read, or that contradicts itself or other runs, becomes a
row of `faults` with the reason:

    missing      the run is in no table
    incomplete   the run is in the tables, with blanks
    fault        no value of the run is compared, judged or concluded from
    unchecked    a check could not be made
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from sparseft.analysis.consistency import conflicts, differences, first_digests
from sparseft.analysis.run_files import RunFiles, SharedFiles, read_run
from sparseft.analysis.settings import other_settings, setting_texts, settings_of
from sparseft.analysis.statistics import mean_columns
from sparseft.data.settings import DIVERGENCE
from sparseft.errors import InputError
from sparseft.export.engine_record import EnginesRecord
from sparseft.grid import MODES, Run
from sparseft.methods import sort_key
from sparseft.records.record_file import files_digest
from sparseft.study.config import Config
from sparseft.study.targets import runs as configured_runs
from sparseft.tasks.metrics import LOSS

# What two cells are compared by, in the order in which a sentence uses them. Each is a column of the runs.
VALUE, EVAL_LOSS = "value", "eval_loss"
MEASURES = (VALUE, EVAL_LOSS, DIVERGENCE)
# What the frame of the examples says of each run and column; `scores` has a number per example.
EXAMPLES = ["run_id", "column", "metric", "data", "scores", "tokens"]
# The order of runs and cells.
ORDER = ("model", "task", "method", "sparsity", "mode", "training", "setting", "seed")
RANKS = {"method": sort_key, "mode": MODES.index}
# A run is not compared if a larger share of its prompts repeat another, because tests assume independent examples.
REPEATED = 0.1
# The kinds of faults that decide the status of a run, from the worst on, and what the status is called.
STATUSES = {"fault": "fault", "unchecked": "not fully checked"}
# Only runs of these statuses support a mean that is compared, a choice or a sentence.
SOUND = ("sound", "not fully checked")


@dataclass(frozen=True)
class Frames:
    """Hold a study.

    The columns `settings` and `digests` of the runs hold what decides a result, and the hashes of its files. `measured`
    names the columns that depend on the study: metrics, probes, engines."""

    runs: pd.DataFrame
    examples: pd.DataFrame
    faults: pd.DataFrame
    measured: list[str]


def read_study(results_dir: Path, config: Config | None = None) -> Frames:
    """Read the run folders of a study: all that are there, or those of a configuration, which also says what is
    missing.

    Raises InputError if no run is complete."""
    if not results_dir.is_dir():
        raise InputError(f"{results_dir}: no such folder", "give the folder that holds the runs, or make them first")
    # A hidden folder is still being written.
    found = {path.name: path for path in sorted(results_dir.iterdir()) if path.is_dir() and path.name[0] != "."}
    asked = [run.id for run in configured_runs(config)] if config else list(found)
    shared = SharedFiles(study_folder(results_dir))
    files_of, faults = _read_folders([found[name] for name in asked if name in found], shared)
    absent = [name for name in asked if name not in found]
    faults += [(name, "missing", "no such folder, though the configuration asks for it") for name in absent]
    if not files_of:
        first = f" (the first: {faults[0][0]}: {faults[0][2]})" if faults else ""
        raise InputError(f"{results_dir}: {len(asked)} runs, none complete{first}", "run the study first")
    probes = dict.fromkeys(name for files in files_of.values() for name in files.evaluation.probes)
    probes |= dict.fromkeys(config.evaluation.probes if config else ())
    faults += _faults(files_of, probes, config)
    table = pd.DataFrame(faults, columns=["run_id", "kind", "text"])
    table = table.sort_values("run_id", kind="stable", ignore_index=True)
    runs = _runs(files_of, table, list(config.grid.trainings) if config else [])
    runs["original"] = runs["model"].map(config.original) if config else runs["model"]
    scored = [(run.id, *part) for run, files in files_of.items() for part in _scored(files) if part[3]]
    examples = pd.DataFrame(scored, columns=EXAMPLES)
    # As the user names it: two results folders may link to the same runs.
    study = Path(os.path.abspath(results_dir)).parent.name
    measured = list(pd.DataFrame(map(_measured, files_of.values())))
    return Frames(runs.assign(study=study), examples, table.assign(study=study), measured)


def _runs(files_of: Mapping[Run, RunFiles], faults: pd.DataFrame, trainings: list[str]) -> pd.DataFrame:
    """Return a row per run, with the place of its training, its status, and the settings in which runs differ."""
    runs = pd.DataFrame(
        _row(files, files_of.get(files.start) if files.start else None) | _measured(files)
        for files in files_of.values()
    )
    order = [*trainings, *sorted(runs["training"].unique())]
    runs["training_order"] = runs["training"].map(order.index)
    # A run has the status of its worst fault.
    statuses = pd.Categorical(faults["kind"].map(STATUSES), [*STATUSES.values(), "sound"], ordered=True)
    runs["status"] = runs["run_id"].map(pd.Series(statuses, faults["run_id"]).groupby(level=0).min())
    runs["status"] = runs["status"].astype(statuses.dtype).fillna("sound")
    runs["setting"] = setting_texts(runs)
    return runs


def study_folder(results_dir: Path) -> Path:
    """Return the folder that holds masks/ and data/: two above the runs, or three if the results have a name.

    The path is taken as the user names it, because a folder between may be a link."""
    two, three = (Path(os.path.normpath(results_dir / above)) for above in ("../..", "../../.."))
    return three if (three / "masks").is_dir() and not (two / "masks").is_dir() else two


def _read_folders(folders: Iterable[Path], shared: SharedFiles) -> tuple[dict[Run, RunFiles], list[tuple]]:
    """Return the runs that can be read, and the faults of the reading. Any error is a fault of its run only."""
    files_of: dict[Run, RunFiles] = {}
    faults = []
    for folder in folders:
        try:
            files = read_run(folder, shared)
            files_of[files.run] = files
            if files.reasons:
                faults.append((files.run.id, "incomplete", " | ".join(files.reasons)))
        except Exception as error:
            reason = error.args[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            faults.append((_in_one_line(folder.name), "missing", _in_one_line(str(reason))))
    return files_of, faults


def _in_one_line(text: str) -> str:
    """Return a text from outside with its line breaks, and its bytes that are not text, written as escapes."""
    return ascii(text)[1:-1]


def _faults(files_of: Mapping[Run, RunFiles], probes: Iterable[str], config: Config | None) -> Iterator[tuple]:
    """Yield the faults of the runs that can be read."""
    of_others = conflicts(files_of)
    for run, files in files_of.items():
        own = files.validation.faults() + differences(files)
        if config and (differing := other_settings(settings_of(files), config, run)):
            own.append(f"made with other settings than the configured ones: {', '.join(differing)}")
        reasons = {"fault": own + of_others[run], "unchecked": _unchecked(files, files_of)}
        known = {*files.evaluation.probes, run.task}
        if lacking := [name for name in probes if name not in known]:
            reasons["incomplete"] = [f"{files.evaluation.file_name}: no result on the probe {', '.join(lacking)}"]
        yield from ((run.id, kind, text) for kind, texts in reasons.items() for text in texts)


def _unchecked(files: RunFiles, known: Iterable[Run]) -> list[str]:
    """Return what could not be checked about a run, in words."""
    start = files.start
    reasons = {
        "the mask's file is not there, its hash was not compared": "mask" not in files.on_disk,
        "the trained files are not there, their hash was not compared": files.train and "adapter" not in files.on_disk,
        "the task's manifest is not there, its definition was not compared": files.evaluation.definition_sha256
        and "definition" not in files.on_disk,
        f"{start and start.id}, from which it starts, could not be read": start and start not in known,
    }
    return [*files.validation.not_checked, *(text for text, is_true in reasons.items() if is_true)]


def _row(files: RunFiles, start: RunFiles | None) -> dict[str, object]:
    """Return the row of a run: what summary.csv has, and what only the analysis needs.

    `start` has the records of the run that this one starts from, whose tokens count too."""
    run, evaluation, train, validation = files.run, files.evaluation, files.train, files.validation
    share = validation.expected_sparsity
    row = {
        "run_id": run.id,
        **vars(run),
        "date": files.date,
        "settings": settings_of(files, start),
        "digests": first_digests(files),
        **evaluation.columns,
        **(train.columns if train else {}),
        **validation.columns,
        "train_merge_gap": evaluation.eval_loss - files.before.eval_loss if files.before else None,
        "value_before_merge": files.before.value if files.before else None,
        "reached_sparsity": nan if share is None else 100 * share,
        "parameters_left": validation.parameters_left,
        "passed": validation.passed and not validation.max_abs_pruned,
        "weights": validation.weights,
        "violations": validation.violations,
        "layers_checked": f"{validation.layers_checked} / {validation.layers_expected}",
        "merged_sha256": files_digest(validation.inputs.checkpoint),
        "versions": train.versions if train else {},
        "repeated_prompts": 1 - evaluation.distinct_prompts / evaluation.examples,
    }
    if train:
        row["train_loss"] = train.final_task_loss
    if files.start:
        row["training_tokens"] = train and start and start.train and train.tokens + start.train.tokens
    if files.selection:
        row |= {f"selection_{name}": getattr(files.selection, name) for name in ("value", "eval_loss", "examples")}
    return row


def _measured(files: RunFiles) -> dict[str, Any]:
    """Return the columns of a run that depend on the study: metrics, probes, engines."""
    evaluation, train = files.evaluation, files.train
    row = {name: value for name, value in evaluation.metrics.items() if "_stderr" not in name}
    for name, probe in evaluation.probes.items():
        row |= {f"probe_{name}": probe.value, f"overlap_{name}": probe.overlap}
    if train and train.reconstruction:
        # No layer has an error if the mask prunes nothing.
        shares = [layer.error_after / layer.error_before for layer in train.reconstruction.layers if layer.error_before]
        row["reconstruction_error"] = fmean(shares) if shares else nan
    return row | (_engine_columns(files.engines) if files.engines else {})


def _engine_columns(record: EnginesRecord) -> dict[str, Any]:
    """Return what each engine that agrees on both models measured of the run, and how much faster than dense it is."""
    columns: dict[str, Any] = {}
    for engine in dict.fromkeys(one.engine for one in record.results):
        dense, run = (
            [one for one in record.results if (one.engine, one.model) == (engine, model)] for model in ("dense", "run")
        )
        if engine not in record.differing:
            pairs = zip(run, dense, strict=True)
            ratios = [one.tokens_per_second / other.tokens_per_second for one, other in pairs]
            columns |= mean_columns(f"{engine}_speedup", ratios) | {
                f"{engine}_tokens_per_second": fmean(one.tokens_per_second for one in run),
                f"{engine}_first_token_seconds": fmean(one.first_token_seconds for one in run),
                f"{engine}_memory_bytes": max(one.peak_memory_bytes for one in run),
            }
    return columns


def _scored(files: RunFiles) -> Iterator[tuple]:
    """Yield what a run scored on each example, by the column of the tables: the value, the loss and each probe, and the
    divergence of each window.

    After the column come the metric, which says what a score is, the digest of the rows that the examples are, the
    scores, and the tokens by which a loss is divided."""
    evaluation = files.evaluation
    data, losses, tokens = evaluation.inputs.data, evaluation.losses, evaluation.answer_tokens
    yield VALUE, evaluation.metric, data, evaluation.outcomes or losses, tokens
    yield EVAL_LOSS, LOSS.name, data, losses, tokens
    yield DIVERGENCE, DIVERGENCE, evaluation.inputs.divergence, evaluation.divergences, 1
    for name, probe in evaluation.probes.items():
        yield f"probe_{name}", probe.metric, probe.data_sha256, probe.outcomes, 1


def in_order(table: pd.DataFrame, names: Sequence[str] = ORDER, ranks: Mapping[str, Any] = RANKS) -> pd.DataFrame:
    """Return the rows of a table in the order of some columns, and of the ranks of those that have some.

    Runs and cells are in the order of the study: dense first, then methods, sparsities and modes."""
    return table.sort_values(
        [name for name in names if name in table],
        key=lambda column: column.map(ranks.get(column.name, lambda value: value)),
        kind="stable",
        ignore_index=True,
    )
