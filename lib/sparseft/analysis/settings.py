"""Collect the settings of a run: what decides its result, apart from its name.

Runs may be pooled over seeds, joined to a curve or compared only if they agree in every setting that they share:

    training    every key of `training:`, the backend, the dtype and the training data. Runs that are not trained have none.
                Each name in `grid.trainings` has keys of its own, so runs of two names may differ in them
    reconstruction  what `reconstruction:` sets, of the runs whose decoder layers are reconstructed, in the place of those keys.
                A run that starts from such a run has both
    masks       scope, seed, N:M group, calibration and its data, of the run's method. Dense runs have none
    evaluation  the dtype, lm-eval's version, the worked examples, the text of a perplexity, the data and the metric of each
                probe

The definition of a task that the configuration describes is a setting of its training and of its evaluation. A run that lacks
a probe agrees with every run that has it.

All runs of a model or task must have the same base, data and prompts. So these are not settings, and chain.strangers names a
run that differs in one of them. A key that leaves every bit of the result as it is (records.WITHOUT_EFFECT) is not a setting.
"""

from collections import defaultdict
from collections.abc import Iterable

from sparseft.analysis.chain import short, start_of
from sparseft.analysis.records import DECIDING_KEYS, Record
from sparseft.modes import get_mode
from sparseft.study.config import Config, Reconstruction, Training
from sparseft.study.grid import DENSE, NO_FINETUNE, Run
from sparseft.study.targets import runs
from sparseft.tasks.wikitext2 import PREFIXES

# The beginning of the names of the settings that choose the examples of a reconstruction.
RECONSTRUCTION = "reconstruction."
# What a setting belongs to, and its name last: ("training", model, task, name), ("training", model, task, training, name), or
# ("masks", model, task, method, name).
Key = tuple[str, ...]


def settings_of(record: Record, start: Record | None = None) -> dict[Key, object]:
    """Return the settings of a run by what they belong to. `start` is the run that it starts from, if there is one."""
    settings = _keyed("evaluation", record.run, record.evaluation.settings)
    if record.run.method != DENSE:
        settings |= _keyed("masks", record.run, record.validation.mask.settings)
    if record.train:
        settings |= _keyed_training(record.run, record.train.settings)
    if start and start.train:
        settings |= _of_reconstruction(_keyed_training(start.run, start.train.settings))
    return settings


def configured_settings(study: Config, run: Run) -> dict[Key, object]:
    """Return the settings that a configuration requests, as far as it names them."""
    settings = _keyed("evaluation", run, {"dtype": study.models[run.model].dtype})
    if run.method != DENSE:
        scope = study.masks.scope_of(run.method, [run.sparsity])
        settings |= _keyed("masks", run, study.masks.used_by(run.method) | {"scope": scope})
    if run.mode != NO_FINETUNE:
        settings |= _configured_training(study, run)
    if start := start_of(run):
        settings |= _of_reconstruction(_configured_training(study, start))
    return settings


def _configured_training(study: Config, run: Run) -> dict[Key, object]:
    """Return the settings that a configuration requests of the training of a run."""
    compared = set(DECIDING_KEYS) - study.training_backend.chosen_keys
    schedule = study.schedule_of(run.mode, run.task, run.training).model_dump(include=compared)
    schedule |= {"backend": study.backend}
    if get_mode(run.mode).reconstructs:
        chosen = study.reconstruction_examples()
        schedule |= {f"{RECONSTRUCTION}{name.removeprefix('calibration_')}": value for name, value in chosen.items()}
    return _keyed_training(run, schedule)


def outside(records: Iterable[Record], study: Config) -> dict[Run, str]:
    """Return the runs that do not belong to a configured study, each with the reason."""
    grid = set(runs(study))
    by_run = {record.run: record for record in records}
    reasons = {}
    for record in by_run.values():
        if record.run not in grid:
            reasons[record.run] = "not in the configured grid"
            continue
        own = settings_of(record, by_run.get(start_of(record.run)))
        differing = _differing(own, configured_settings(study, record.run))
        differing += _other_data(record, study)
        if differing:
            reasons[record.run] = f"made with other settings than the configured ones: {', '.join(differing)}"
    return reasons


def _other_data(record: Record, study: Config) -> list[str]:
    """Return how the data of a run differ from what the configuration requests, as far as numbers of examples tell."""
    data = study.tasks[record.run.task]
    evaluated = record.evaluation.examples
    differing = []
    # The validation examples of a text are sequences, and their number depends on the tokenizer.
    if data.kind != "text" and data.validation_examples not in (None, evaluated):
        differing.append(f"{evaluated} validation examples instead of {data.validation_examples}")
    if data.kind != "text" and record.selection and data.selection_examples not in (None, record.selection.examples):
        differing.append(f"{record.selection.examples} selection examples instead of {data.selection_examples}")
    if record.train and data.train_examples not in (None, record.train.train_examples):
        differing.append(f"{record.train.train_examples} training examples instead of {data.train_examples}")
    contexts = {study.perplexity.context} if study.perplexity else set()
    measured = {int(name.rpartition("_")[2]) for name in record.evaluation.metrics if name.startswith(PREFIXES)}
    if measured != contexts:
        wanted = next(iter(contexts), "none")
        differing.append(f"perplexity over {measured or 'no'} tokens instead of {wanted}")
    return differing


def by_setting(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the runs that may be pooled and compared, by a text that names what sets them apart.

    The text is empty for a model and task whose runs all agree. A run without the settings that differ, such as a dense or
    an untrained one, belongs to every group that it agrees with. Runs of two trainings can be in one group. Choose one of them per
    cell before the runs are pooled (tuning.py)."""
    places: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        places[record.run.model, record.run.task].append(record)
    settings: dict[str, list[Record]] = defaultdict(list)
    for members in places.values():
        for text, group in _groups(members).items():
            settings[text] += group
    return dict(settings)


def _groups(records: list[Record]) -> dict[str, list[Record]]:
    """Return the groups of one model and task, by a text of their settings."""
    by_run = {record.run: record for record in records}
    settings = {run: settings_of(record, by_run.get(start_of(run))) for run, record in by_run.items()}
    contested = _contested(settings.values())
    narrowed = {run: {key: value for key, value in own.items() if key in contested} for run, own in settings.items()}
    groups: list[dict[Key, object]] = []
    # A run with more settings fits fewer groups, so it comes first.
    for own in sorted(narrowed.values(), key=len, reverse=True):
        fitting = next((group for group in groups if not _conflicts(group, own)), None)
        if fitting is None:
            groups.append(dict(own))
        else:
            fitting.update(own)
    return {
        _text(group): [record for record in records if narrowed[record.run].items() <= group.items()]
        for group in groups
    }


def _keyed(part: str, run: Run, values: dict[str, object]) -> dict[Key, object]:
    """Return settings by their keys, lists as tuples. `gradient` decides nothing if no step is masked."""
    owner: Key = (part, run.model, run.task)
    if part == "masks":
        owner = (*owner, run.method)
    ignored = set() if get_mode(run.mode).masks_every_step else {"gradient"}
    return {
        (*owner, name): tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name not in ignored
    }


def _keyed_training(run: Run, values: dict[str, object]) -> dict[Key, object]:
    """Return the settings of a training by their keys. A reconstruction shares only some of them with the trainings on a task."""
    if not get_mode(run.mode).reconstructs:
        return _keyed_schedule(run, values)
    own = {name for name in values if name in Reconstruction.DECIDED or name.startswith(RECONSTRUCTION)}
    shared = {name: value for name, value in values.items() if name not in own}
    decided = {name.removeprefix(RECONSTRUCTION): values[name] for name in own}
    return _keyed_schedule(run, shared) | _keyed("reconstruction", run, decided)


def _keyed_schedule(run: Run, values: dict[str, object]) -> dict[Key, object]:
    """Return the settings of a training by their keys. Those that `grid.trainings` can change belong to the training's name."""
    settings = {}
    for key, value in _keyed("training", run, values).items():
        is_of_name = run.training and key[-1] in Training.model_fields
        settings[(*key[:-1], run.training, key[-1]) if is_of_name else key] = value
    return settings


def _of_reconstruction(settings: dict[Key, object]) -> dict[Key, object]:
    """Return those settings of a reconstruction that a run has too that starts from it."""
    return {key: value for key, value in settings.items() if key[0] == "reconstruction"}


def _contested(settings: Iterable[dict[Key, object]]) -> set[Key]:
    """Return the keys that have more than one value."""
    values: dict[Key, set[object]] = defaultdict(set)
    for own in settings:
        for key, value in own.items():
            values[key].add(value)
    return {key for key, distinct in values.items() if len(distinct) > 1}


def _conflicts(group: dict[Key, object], own: dict[Key, object]) -> bool:
    """Return whether a setting of a run has another value in a group."""
    return any(key in group and group[key] != value for key, value in own.items())


def _differing(own: dict[Key, object], configured: dict[Key, object]) -> list[str]:
    """Return each setting that differs: its name, the run's value, and the configured one."""
    return [
        f"{key[-1]} {_short(own[key])} instead of {_short(value)}"
        for key, value in configured.items()
        if key in own and own[key] != value
    ]


def _text(group: dict[Key, object]) -> str:
    """Return the settings of a group as a text. A setting outside the training says what it belongs to."""
    parts = set()
    for key, value in group.items():
        # The method of a mask, or the name of a training.
        name = f"{key[3]} " if len(key) == 5 else ""
        owner = name if key[0] in ("training", "masks") else f"{key[0]} "
        parts.add(f"{owner}{key[-1]} {_short(value)}")
    return ", ".join(sorted(parts))


def _short(value: object) -> str:
    """Return a value as a text; a digest is cut."""
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return short(text) if len(text) == 64 else text or "none"
