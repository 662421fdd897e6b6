"""Collect the settings of a run: what decides its result, apart from its name.

Two runs are pooled, chosen between or compared only if they agree in every setting that both have:

    training        the fields of train.json that are settings. Each name in `grid.trainings` has settings of its own
    reconstruction  the keys of `reconstruction:`, for a run in a reconstructing mode or one that starts from it
    masks           what the mask says of itself, for each method. Dense runs have none
    evaluation      the dtype, lm-eval's version, the few-shot examples, a perplexity's text, and those of each probe

All runs of a model or a task must have the same base, data and prompts. So these are not settings, and consistency.py
names a run that differs in one of them."""

from collections.abc import Mapping

import pandas as pd

from sparseft.analysis.consistency import short
from sparseft.axes.grid import DENSE, NO_FINETUNE, Run
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.study.config import Config
from sparseft.training.settings import LAYERED_KEYS, Training

RECONSTRUCTION = "reconstruction."
# The model that a distillation or a reconstruction learns from.
TEACHER = "inputs.dense"
# What a setting belongs to, with its name last: ("masks", METHOD, NAME), ("training", TRAINING, NAME), ("evaluation",
# NAME).
Key = tuple[str, ...]
Settings = dict[Key, object]
Values = Mapping[str, object]


def settings_of(files, start=None) -> Settings:
    """Return the settings of a run from its records. `start` has those of the run that it starts from, if there is
    one."""
    training = files.train.settings if files.train else {}
    settings = _by_key(files.run, files.evaluation.settings, files.validation_report.mask.settings, training)
    # Only those of a reconstruction also hold for a run that starts from it.
    started = settings_of(start).items() if start else ()
    return settings | {key: value for key, value in started if key[0] == "reconstruction"}


def other_settings(own: Settings, config: Config, run: Run) -> list[str]:
    """Return how the settings of a run differ from those that a configuration requests, as far as it names them."""
    masks, training = {}, {}
    if run.method != DENSE:
        method = get_method(run.method)
        masks = config.mask_settings(method, run.task) | {"scope": config.masks.scope_of(method, [run.sparsity])}
    if run.mode != NO_FINETUNE:
        training = dict(config.schedule_of(run.mode, run.task, run.training)) | {"backend": config.backend}
        # A backend may choose the size of the micro-batches, which decides only last bits.
        del training["micro_batch_size"]
        chosen = config.reconstruction_examples() if get_mode(run.mode).reconstructs else {}
        training |= {f"{RECONSTRUCTION}{name.removeprefix('calibration_')}": value for name, value in chosen.items()}
    return [
        f"{key[-1]} {_short(own[key])} instead of {_short(value)}"
        for key, value in _by_key(run, {"dtype": config.models[run.model].dtype}, masks, training).items()
        if key in own and own[key] != value
    ]


def compatible(ours: Settings, theirs: Settings) -> bool:
    """Return whether two runs agree in every setting that both have."""
    return all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())


def setting_texts(runs: pd.DataFrame) -> pd.Series:
    """Return for each run, as a text, those of its settings in which runs of its model and task differ."""
    values = [
        (index, model, task, key, value)
        for index, model, task, settings in runs[["model", "task", "settings"]].itertuples()
        for key, value in settings.items()
        # The metric has a column of its own.
        if key[-1] != "metric"
    ]
    table = pd.DataFrame(values, columns=["run", "model", "task", "key", "value"])
    distinct = table.groupby(["model", "task", "key"])["value"].transform("nunique", dropna=False)
    contested = table[distinct > 1]
    words = pd.Series(map(_words, contested["key"], contested["value"]), contested["run"], dtype=object)
    return words.groupby(level=0).agg(lambda own: ", ".join(sorted(own))).reindex(runs.index, fill_value="")


def _by_key(run: Run, evaluation: Values, masks: Values, training: Values) -> Settings:
    """Return the settings of a run by their keys, lists as tuples. A reconstruction shares only some of its own with
    trainings on a task."""
    mode = get_mode(run.mode)
    settings: Settings = {("evaluation", name): value for name, value in evaluation.items()}
    if run.method != DENSE:
        settings |= {("masks", run.method, name): value for name, value in masks.items()}
    for name in [name for name in training if name not in Training.unused_in(run.mode)]:
        if mode.reconstructs and (name in LAYERED_KEYS or name == TEACHER or name.startswith(RECONSTRUCTION)):
            key: Key = ("reconstruction", name.removeprefix(RECONSTRUCTION))
        else:
            # What grid.trainings can change belongs to the name of the training.
            key = ("training", run.training if name in {*Training.model_fields, TEACHER} else "", name)
        settings[key] = training[name]
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _words(key: Key, value: object) -> str:
    """Return a setting as a text that says what it belongs to, unless that is a training without a name."""
    owner = " ".join(part for part in key[:-1] if part and part not in ("training", "masks"))
    return f"{owner} {key[-1]} {_short(value)}".strip()


def _short(value: object) -> str:
    """Return a value as a text; a digest is cut."""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return "none" if value is None or not text else short(text) if len(text) == 64 else text
