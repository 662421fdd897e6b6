"""The user's own files that a model or a task is prepared from, so that a changed file is prepared again."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import yaml

from sparseft.checkpoints.checkpoint import small_files
from sparseft.errors import InputError
from sparseft.study.config import Config, TaskData
from sparseft.study.sources import split_mdl
from sparseft.tasks.data_source import SPLITS
from sparseft.tasks.selection_rows import SELECTION, local_file

# Bytes of a YAML file of lm-eval (evaluation/lm_eval_yaml.py).
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def model_files(source: str) -> list[str]:
    """Return the files of a `path:` or `mdl:` source that decide a result; none for another source."""
    kind, _, place = source.partition(":")
    if kind == "path":
        folder = Path(place)
        weights = list(folder.glob("*.safetensors"))
    elif kind == "mdl":
        file, folder = split_mdl(place)
        weights = [file]
    else:
        return []
    # config.json is listed even if it is missing, so that Snakemake reports it.
    return sorted(map(str, {*weights, *small_files(folder), folder / "config.json"}))


def missing_data_files(config: Config) -> list[str]:
    """Return a text for each local file of the study's tasks and texts that is missing, with its place in the configuration.

    Snakemake would not notice such a file if the data that were made of another one are there."""
    tasks = dict.fromkeys([*config.grid.tasks, *config.evaluation.probes])
    places = {f"tasks.{name}": task_files(config.task_data(name)) for name in tasks}
    for name in config.calibration_texts():
        text = config.masks.calibration[name]
        if text.local:
            places[f"masks.calibration.{name}.text"] = [text.local]
    if config.perplexity and config.perplexity.local:
        places["perplexity.local"] = [config.perplexity.local]
    return [
        f"{place}: {file}: no such file" for place, files in places.items() for file in files if not Path(file).exists()
    ]


def task_files(data: TaskData) -> list[str]:
    """Return the user's own files that a task is prepared from: those of its folder, and its YAML file.

    A YAML file comes with all files outside lm-eval's package that it includes."""
    definitions = []
    if data.lm_eval_file:
        included: list[Path] = []
        _add_included(Path(data.lm_eval_file).resolve(), included)
        # The first file is the user's own, under the name that the configuration has. The others are relative to the study's
        # folder, so that a moved study has the same inputs.
        definitions = [data.lm_eval_file, *map(os.path.relpath, included[1:])]
    return definitions + rows_files(data)


def _add_included(path: Path, files: list[Path]) -> None:
    """Add a YAML file and the files that it includes to `files`, each one once.

    A file that cannot be read includes nothing here. The preparation of the task reports it."""
    package = find_spec("lm_eval")
    is_of_lm_eval = package is not None and path.is_relative_to(Path(package.origin).resolve().parent)
    if path in files or is_of_lm_eval:
        return
    try:
        content = path.read_bytes()
        files.append(path)
        root = yaml.compose(content, Loader=_LOADER)
    except (yaml.YAMLError, InputError, OSError, RecursionError):
        return
    for name in _included_names(root, set()):
        _add_included((path.parent / name).resolve(), files)


def _included_names(node: yaml.Node | None, seen: set[int]) -> Iterator[str]:
    """Yield the names that stand under `include` in a mapping, and in mappings that are merged into it."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    for key, value in node.value:
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for part in parts:
            if key.value == "include" and isinstance(part, yaml.ScalarNode) and "\0" not in part.value:
                yield part.value
            elif key.value == "<<":
                yield from _included_names(part, seen)


def selection_files(data: TaskData) -> list[str]:
    """Return the file of the split selection in a local task's folder; nothing if there is none."""
    file = local_file(Path(data.local), SELECTION, is_text=data.kind == "text") if data.local else None
    return [str(file)] if file else []


def rows_files(data: TaskData) -> list[str]:
    """Return the files of a local task's rows by split; none if the task has no folder. Text may also be in .txt files."""
    if not data.local:
        return []
    endings = [".txt", ".jsonl"] if data.kind == "text" else [".jsonl"]
    files = []
    for split in SPLITS:
        places = [f"{data.local}/{split}{ending}" for ending in endings]
        # The last place is listed even if it is missing, so that Snakemake reports it.
        files.append(next((place for place in places if Path(place).exists()), places[-1]))
    return files
