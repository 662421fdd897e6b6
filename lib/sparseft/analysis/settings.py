"""Collect the settings of a run: what decides its result, apart from its name.

Two runs are pooled, chosen between or compared only if they agree in every setting that both have:

    training        the fields of train.json that are settings. Each name in `grid.trainings` has settings of its own
    reconstruction  the keys of `reconstruction:`, for a run in a reconstructing mode or one that starts from it
    masks           what the mask says of itself, for each method. Dense runs have none
    evaluation      the dtype, lm-eval's version, the worked examples, the text of a perplexity, and those of each probe

All runs of a model or a task must have the same base, data and prompts. So these are not settings, and chain.py names a
run that differs in one of them."""

from collections.abc import Mapping

import pandas as pd

from sparseft.analysis.chain import short
from sparseft.methods import get_method
from sparseft.modes import get_mode
from sparseft.study.config import Config
from sparseft.study.grid import DENSE, NO_FINETUNE, Run
from sparseft.study.schedule import Training
from sparseft.study.section import Role

RECONSTRUCTION = "reconstruction."
# What a setting belongs to, with its name last: ("masks", METHOD, NAME), ("training", TRAINING, NAME), ("evaluation",
# NAME).
Key = tuple[str, ...]
Settings = dict[Key, object]


def settings_of(files, start=None) -> Settings:
    """Return the settings of a run from its records. `start` has those of the run that it starts from, if there is
    one."""
    run = files.run
    settings = _keyed(("evaluation",), files.evaluation.settings)
    if run.method != DENSE:
        settings |= _keyed(("masks", run.method), files.validation.mask.settings)
    if files.train:
        settings |= _of_training(run, files.train.settings)
    if start and start.train:
        # Only those of a reconstruction also hold for a run that starts from it.
        started = _of_training(start.run, start.train.settings)
        settings |= {key: value for key, value in started.items() if key[0] == "reconstruction"}
    return settings


def other_settings(own: Settings, config: Config, run: Run) -> list[str]:
    """Return how the settings of a run differ from those that a configuration requests, as far as it names them."""
    asked = _keyed(("evaluation",), {"dtype": config.models[run.model].dtype})
    if run.method != DENSE:
        method = get_method(run.method)
        scope = config.masks.scope_of(method, [run.sparsity])
        asked |= _keyed(("masks", run.method), config.masks.used_by(method) | {"scope": scope})
    if run.mode != NO_FINETUNE:
        asked |= _configured_training(config, run)
    return [
        f"{key[-1]} {_short(own[key])} instead of {_short(value)}"
        for key, value in asked.items()
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


def _configured_training(config: Config, run: Run) -> Settings:
    """Return the settings that a configuration requests of the training of a run."""
    # A backend may choose the size of the micro-batches, which decides only last bits.
    ignored = Training.keys_of(Role.WITHOUT_EFFECT) | {"micro_batch_size"}
    schedule: dict[str, object] = {
        name: value for name, value in config.schedule_of(run.mode, run.task, run.training) if name not in ignored
    }
    schedule |= {"backend": config.backend}
    if get_mode(run.mode).reconstructs:
        chosen = config.reconstruction_examples()
        schedule |= {f"{RECONSTRUCTION}{name.removeprefix('calibration_')}": value for name, value in chosen.items()}
    return _of_training(run, schedule)


def _of_training(run: Run, values: dict[str, object]) -> Settings:
    """Return the settings of a training by their keys. A reconstruction shares only some of them with trainings on a
    task."""
    values = {name: value for name, value in values.items() if name not in Training.unused_in(run.mode)}
    own = set()
    if get_mode(run.mode).reconstructs:
        own = {name for name in values if name in Training.keys_of(Role.LAYERS) or name.startswith(RECONSTRUCTION)}
    settings = _keyed(("reconstruction",), {name.removeprefix(RECONSTRUCTION): values[name] for name in own})
    for name in values.keys() - own:
        # What grid.trainings can change belongs to the name of the training.
        training = run.training if name in Training.model_fields else ""
        settings |= _keyed(("training", training), {name: values[name]})
    return settings


def _keyed(owner: Key, values: Mapping[str, object]) -> Settings:
    """Return settings by their keys, lists as tuples."""
    return {(*owner, name): tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _words(key: Key, value: object) -> str:
    """Return a setting as a text that says what it belongs to, unless that is a training without a name."""
    owner = " ".join(part for part in key[:-1] if part and part not in ("training", "masks"))
    return f"{owner} {key[-1]} {_short(value)}".strip()


def _short(value: object) -> str:
    """Return a value as a text; a digest is cut."""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return "none" if value is None or not text else short(text) if len(text) == 64 else text
