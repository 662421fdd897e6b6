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
from functools import cache
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from sparseft.analysis.consistency import conflicts, differences
from sparseft.analysis.run_files import RunFiles, read_run
from sparseft.analysis.settings import other_settings, setting_texts, settings_of
from sparseft.analysis.statistics import mean_columns
from sparseft.axes.grid import MODES, Run
from sparseft.axes.methods import sort_key
from sparseft.axes.tasks.metrics import LOSS
from sparseft.common.errors import InputError
from sparseft.data.settings import DIVERGENCE
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.storage.hashes import sha256
from sparseft.storage.record_file import files_digest
from sparseft.study.config import Config
from sparseft.study.targets import runs as configured_runs
from sparseft.training.training_record import TrainingRecord

# What two cells are compared by, in the order in which a sentence uses them. Each is a column of the runs.
VALUE, EVAL_LOSS = "value", "eval_loss"
MEASURES = (VALUE, EVAL_LOSS, DIVERGENCE)
# Where the columns of the study's own metrics, of a perplexity and of the probes stand in a table.
MEASURED = "[metrics]"
RUN = ["study", "run_id", "model", "task", "method", "sparsity", "mode", "training", "seed"]
# The fields of the records that are columns of summary.csv, by the name of the column.
FIELDS: dict[str, Any] = {
    column: record.model_fields[name]
    for record in (EvaluationRecord, ValidationRecord, TrainingRecord)
    for name, column in record.column_names().items()
}
# The columns of summary.csv. `_row` computes those that are not a field of a record.
RUNS = [*RUN, "setting", *FIELDS, MEASURED, *"value_before_merge train_merge_gap reached_sparsity".split()]
RUNS += "parameters_left train_loss selection_value chosen status".split()
# Those that are also columns of grouped_summary.csv.
POOLED = [name for name in FIELDS if name != "metric" and "standard_error" not in name]
# What the frame of the examples says of each run and column; `scores` has a number per example.
EXAMPLES = ["run_id", "column", "metric", "data", "scores", "tokens"]
# The order of runs and cells.
ORDER = ("model", "task", "method", "sparsity", "mode", "training", "setting", "seed")
RANKS = {"method": sort_key, "mode": MODES.index}
# A run is not compared if a larger share of its prompts repeat another, because tests assume independent examples.
REPEATED = 0.1
# The kinds of faults that decide the status of a run, and what the status is called. In the order of the alphabet, the
# statuses go from the worst to the best.
STATUSES = {"fault": "fault", "unchecked": "not fully checked"}
# Only runs of these statuses support a mean that is compared, a choice or a sentence.
SOUND = ("sound", "not fully checked")
# The keys of `export:` that decide a speed. Speeds with others cannot be compared.
ENGINE_KEYS = {"gguf", "prompts", "prompt_tokens", "new_tokens"}


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
    # A hidden folder is still being written.
    folders = [path for path in sorted(results_dir.iterdir()) if path.is_dir() and path.name[0] != "."]
    if config:
        folders = [results_dir / run.id for run in configured_runs(config)]
    files_of, faults = _read_folders(folders, study_folder(results_dir), config)
    if not files_of:
        first = f" (the first: {faults[0][0]}: {faults[0][2]})" if faults else ""
        raise InputError(f"{results_dir}: {len(folders)} runs, none complete{first}", "run the study first")
    probes = [*(name for files in files_of.values() for name in files.evaluation.probes)]
    faults += _faults(files_of, [*dict.fromkeys(probes + (config.evaluation.probes if config else []))], config)
    table = pd.DataFrame(faults, columns=["run_id", "kind", "text"])
    table = table.sort_values("run_id", kind="stable", ignore_index=True)
    runs = pd.DataFrame(_row(files, files_of.get(files.start)) | _measured(files) for files in files_of.values())
    order = [*(config.grid.trainings if config else ()), *sorted(runs["training"].unique())]
    runs["training_order"] = runs["training"].map(order.index)
    statuses = table["kind"].map(STATUSES).fillna(SOUND[0]).groupby(table["run_id"]).min()
    runs["status"] = runs["run_id"].map(statuses).fillna(SOUND[0])
    runs["setting"] = setting_texts(runs)
    runs["original"] = runs["model"].map(config.original) if config else runs["model"]
    scored = [(files.run.id, *part) for files in files_of.values() for part in _scored(files) if part[3]]
    # As the user names it: two results folders may link to the same runs.
    study = Path(os.path.abspath(results_dir)).parent.name
    measured = dict.fromkeys(name for files in files_of.values() for name in _measured(files))
    return Frames(
        runs.assign(study=study), pd.DataFrame(scored, columns=EXAMPLES), table.assign(study=study), [*measured]
    )


def study_folder(results_dir: Path) -> Path:
    """Return the folder that holds masks/ and data/: two above the runs, or three if the results have a name.

    The path is taken as the user names it, because a folder between may be a link."""
    two, three = (Path(os.path.normpath(results_dir / above)) for above in ("../..", "../../.."))
    return three if (three / "masks").is_dir() and not (two / "masks").is_dir() else two


def _read_folders(
    folders: Iterable[Path], study: Path, config: Config | None
) -> tuple[dict[Run | None, RunFiles], list[tuple]]:
    """Return the runs that can be read, and the faults of the reading. Any error is a fault of its run only."""
    files_of: dict[Run | None, RunFiles] = {}
    faults = []
    # Many runs share a mask.
    sha256_once = cache(sha256)
    for folder in folders:
        name = _in_one_line(folder.name)
        if not folder.is_dir():
            faults.append((name, "missing", "no such folder, though the configuration asks for it"))
            continue
        try:
            files = read_run(folder, study, sha256_once)
        except Exception as error:
            reason = error.args[0] if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            faults.append((name, "missing", _in_one_line(str(reason))))
            continue
        files_of[files.run] = files
        if files.reasons:
            faults.append((name, "incomplete", " | ".join(files.reasons)))
    return files_of, faults


def _in_one_line(text: str) -> str:
    """Return a text from outside with its line breaks, and its bytes that are not text, written as escapes."""
    return ascii(text)[1:-1]


def _faults(files_of: Mapping[Run | None, RunFiles], probes: Sequence[str], config: Config | None) -> Iterator[tuple]:
    """Yield the faults of the runs that can be read."""
    of_others = conflicts(files_of.values())
    for files in files_of.values():
        run = files.run
        faults = files.validation_report.faults() + differences(files)
        if config and (differing := other_settings(settings_of(files), config, run)):
            faults.append(f"made with other settings than the configured ones: {', '.join(differing)}")
        if config and files.engines:
            asked = {"threads": config.resources.threads, **config.export.model_dump(include=ENGINE_KEYS)}
            differing = [key for key, value in asked.items() if getattr(files.engines, key) != value]
            faults += [f"engines.json: made with other settings than the configured ones: {key}" for key in differing]
        yield from ((run.id, "fault", text) for text in faults + of_others[run.id])
        start = files.start
        lacking_files = {
            "the mask's file is not there, its hash was not compared": not files.is_on_disk("mask"),
            "the trained files are not there, their hash was not compared": (
                files.train and not files.is_on_disk("adapter")
            ),
            "the task's manifest is not there, its definition was not compared": (
                files.evaluation.definition_sha256 and not files.is_on_disk("definition")
            ),
            f"{start and start.id}, from which it starts, could not be read": start and start not in files_of,
        }
        unchecked = [*files.validation_report.not_checked, *(text for text, lacks in lacking_files.items() if lacks)]
        yield from ((run.id, "unchecked", text) for text in unchecked)
        known = {*files.evaluation.probes, run.task}
        if lacking := [name for name in probes if name not in known]:
            yield run.id, "incomplete", f"{files.evaluation.file_name}: no result on the probe {', '.join(lacking)}"


def _row(files: RunFiles, start: RunFiles | None) -> dict[str, object]:
    """Return the row of a run: what summary.csv has, and what only the analysis needs.

    `start` has the records of the run that this one starts from, whose tokens count too."""
    run, evaluation, train, report = files.run, files.evaluation, files.train, files.validation_report
    before, selection, share = files.before_merge, files.selection, report.expected_sparsity
    row = {
        **dict.fromkeys(FIELDS, nan),
        **vars(run),
        **evaluation.columns,
        **(train.columns if train else {}),
        **report.columns,
        "run_id": run.id,
        "date": files.date,
        "settings": settings_of(files, start),
        "digests": files.first_digests,
        "versions": train.versions if train else {},
        "train_loss": train.final_task_loss if train else None,
        "value_before_merge": before.value if before else None,
        "train_merge_gap": evaluation.eval_loss - before.eval_loss if before else None,
        "reached_sparsity": nan if share is None else 100 * share,
        "parameters_left": report.parameters_left,
        "passed": report.passed and not report.max_abs_pruned,
        "weights": report.weights,
        "violations": report.violations,
        "layers_checked": f"{report.layers_checked} / {report.layers_expected}",
        "merged_sha256": files_digest(report.inputs.checkpoint),
        "repeated_prompts": 1 - evaluation.distinct_prompts / evaluation.examples,
    }
    if files.start:
        row["training_tokens"] = train and start and start.train and train.tokens + start.train.tokens
    return row | {f"selection_{name}": getattr(selection, name, nan) for name in ("value", "eval_loss", "examples")}


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
    if not files.engines:
        return row
    results = pd.DataFrame(map(vars, files.engines.results))
    # Only engines that agree on both models have columns.
    for engine, repeats in results[~results["engine"].isin(files.engines.differing)].groupby("engine", sort=False):
        run, dense = (repeats[repeats["model"] == model].reset_index() for model in ("run", "dense"))
        row |= mean_columns(f"{engine}_speedup", run["tokens_per_second"] / dense["tokens_per_second"]) | {
            f"{engine}_tokens_per_second": fmean(run["tokens_per_second"]),
            f"{engine}_first_token_seconds": fmean(run["first_token_seconds"]),
            f"{engine}_memory_bytes": run["peak_memory_bytes"].max(),
        }
    return row


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
