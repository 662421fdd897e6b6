"""Refuse a study before anything runs, if its models, tasks and texts already show that a job would end with an error."""

import re
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.known_hashes import KnownHashes
from sparseft.planning.lengths import line_counts
from sparseft.planning.local_files import rows_files, selection_files
from sparseft.planning.model_sizes import check_sources, described, known_folder
from sparseft.planning.prepared_files import check_prepared
from sparseft.storage.reading import read_json
from sparseft.study.config import Config, TaskData
from sparseft.study.grid import DATA
from sparseft.tasks.instruction import format_of
from sparseft.tasks.selection_rows import nothing_left
from sparseft.tasks.text import LENGTH


def check_inputs(config: Config, hashes: KnownHashes) -> None:
    """Raise InputError if a model, a task or a text of the study cannot be used, as far as this is known yet."""
    check_sources(config)
    check_prepared(config, hashes)
    _check_lengths(config)
    _check_conversations(config)
    _check_examples(config)
    _check_names(config)
    _check_selection(config)


def _check_lengths(config: Config) -> None:
    """Raise InputError if a sequence of a text is longer than a model's context. A model that must be fetched has none yet."""
    lengths = _sequence_lengths(config)
    for name, (place, length) in product(config.grid.models, lengths.items()):
        try:
            limit = described(name, config.models[name]).config.get("max_position_embeddings")
        except InputError:
            continue
        if limit and length > limit:
            raise InputError(
                f"{place}: windows of {length} tokens, but {name} takes {limit}", f"set it to at most {limit}"
            )


def _sequence_lengths(config: Config) -> dict[str, int]:
    """Return the tokens per sequence of each text of the study, by its key of the configuration."""
    lengths = {}
    for text in config.calibration_texts():
        lengths[f"masks.calibration.{text}.length"] = config.masks.calibration[text].length
    for task in config.grid.tasks:
        data = config.task_data(task)
        if data.kind == "text":
            lengths[f"tasks.{task}.length"] = data.length or LENGTH
    if config.perplexity:
        lengths["perplexity.context"] = config.perplexity.context
    return lengths


def _check_conversations(config: Config) -> None:
    """Raise InputError if a task has conversations, and a model on the disk has no chat template."""
    tasks = {name: config.task_data(name) for name in config.grid.tasks}
    chats = {name: Path(data.local) for name, data in tasks.items() if data.kind == "instruction"}
    for model, (task, folder) in product(config.grid.models, chats.items()):
        place = known_folder(model, config.models[model])
        if place and _lacks_template(place) and format_of(task, folder / "train.jsonl") == "messages":
            raise InputError(
                f"tasks.{task}: its rows are conversations, and {place} has no chat template",
                f"put chat_template.jinja into the folder that models.{model}.source names with path:, or use a model for"
                " chats, or write rows of prompt and response",
            )


def _lacks_template(folder: Path) -> bool:
    """Return whether a model's folder has a tokenizer's configuration, but no chat template in it or beside it."""
    file = folder / "tokenizer_config.json"
    return file.exists() and not any(folder.glob("*chat_template*")) and not read_json(file).get("chat_template")


def _check_examples(config: Config) -> None:
    """Raise InputError if masks or a reconstruction take more training examples than a task has, as far as this is known."""
    needed = {}
    if any(get_method(name).uses_task for name in config.grid.methods):
        needed["masks.calibration_examples"] = config.masks.calibration_examples
    if config.reconstructs and not config.reconstruction.calibration:
        needed["reconstruction.examples"] = config.reconstruction.examples
    for task, (key, number) in product(config.grid.tasks, needed.items()):
        rows = _training_rows(config.task_data(task))
        if rows is not None and rows < number:
            raise InputError(
                f"{key} {number}: {task} has only {rows} training rows",
                f"lower {key}, give more rows, or use a text (docs/methods.md)",
            )


def _training_rows(data: TaskData) -> int | None:
    """Return the number of training rows of a task, or the number of lines of its own file, which has no fewer rows.

    It is None if nothing says it yet. The examples of a text are sequences, whose number depends on the tokenizer."""
    if data.kind == "text":
        return None
    if data.train_examples or not data.local:
        return data.train_examples
    train, _ = rows_files(data)
    return line_counts((train,))[0] if Path(train).exists() else None


def _check_selection(config: Config) -> None:
    """Raise InputError if the trainings must be compared on other rows, and the training takes all rows of a task.

    The splits of a data set on the hub that the user names are not known yet."""
    if not config.grid.trainings:
        return
    for name in config.grid.tasks:
        data = config.task_data(name)
        is_known = data.local or (data.task_kind is None and not data.hub)
        if is_known and data.train_examples is None and not selection_files(data):
            raise nothing_left(name, "the training takes all rows")


def _check_names(config: Config) -> None:
    """Raise InputError if lm-eval has no task of a name that the study takes from it, and that is not prepared yet.

    Importing lm-eval would take seconds. Its 14,000 files are only searched for the names, which takes half a second. The job
    refuses a name that is found there, but is not that of a task."""
    package = find_spec("lm_eval")
    wanted = _unprepared_names(config)
    if not wanted or package is None:
        return
    content = b"\n".join(path.read_bytes() for path in (Path(package.origin).parent / "tasks").rglob("*.yaml"))
    for name, place in wanted.items():
        if not re.search(rb"%s(?![\w.-])" % re.escape(name.encode()), content):
            listed = {other.decode() for other in re.findall(rb"^task: *([\w.-]+)", content, re.MULTILINE)}
            near = ", ".join(get_close_matches(name, listed, 5))
            raise InputError(
                f"{place}: lm-eval has no task {name!r}",
                f"give a name {f'such as {near}' if near else 'of lm-eval (lm_eval ls tasks)'}, or a .yaml file",
            )


def _unprepared_names(config: Config) -> dict[str, str]:
    """Return the names of lm-eval's tasks whose data are not prepared yet, each with its place in the configuration."""
    names = {}
    for task in [*config.grid.tasks, *config.evaluation.probes]:
        data = config.task_data(task)
        is_prepared = (Path(DATA.format(task=task)) / "manifest.json").exists()
        if data.lm_eval and not data.lm_eval_file and not is_prepared:
            names[data.lm_eval] = f"tasks.{task}.lm_eval" if task in config.tasks else "evaluation.probes"
    return names
