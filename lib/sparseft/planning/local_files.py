"""The user's own files that a model or a task is prepared from, so that a changed file is prepared again."""

import os
from importlib.util import find_spec
from pathlib import Path

import yaml

from sparseft.checkpoints.checkpoint import small_files
from sparseft.study.config import Config
from sparseft.study.sources import TaskData, split_mdl
from sparseft.tasks.data_source import SPLITS
from sparseft.tasks.selection_rows import SELECTION, local_file


class _Loader(yaml.SafeLoader):
    """Read a YAML file as data. A tag such as !function gives None."""


_Loader.add_constructor(None, lambda loader, node: None)


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


def data_files(config: Config) -> dict[str, list[str]]:
    """Return the user's own files of the study's tasks and texts, by their place in the configuration."""
    files = {}
    for name in dict.fromkeys([*config.grid.tasks, *config.evaluation.probes]):
        files[f"tasks.{name}"] = task_files(config.task_data(name))
    for name in config.calibration_texts():
        files[f"masks.calibration.{name}.text"] = [config.masks.calibration[name].local]
    if config.perplexity:
        files["perplexity.local"] = [config.perplexity.local]
    return files


def task_files(data: TaskData) -> list[str]:
    """Return the user's own files that a task is prepared from: those of its folder, and its YAML file.

    A YAML file comes with all files outside lm-eval's package that it includes."""
    files = []
    if data.lm_eval_file:
        included: list[Path] = []
        _add_included(Path(data.lm_eval_file).resolve(), included)
        # The first file has the name that it has in the configuration. The others are relative to the study's folder, so that a
        # moved study has the same inputs.
        files = [data.lm_eval_file, *map(os.path.relpath, included[1:])]
    # Text may also be in .txt files. The last place is listed even if it is missing, so that Snakemake reports it.
    for split in SPLITS if data.local else ():
        text = f"{data.local}/{split}.txt"
        files.append(text if data.kind == "text" and Path(text).exists() else f"{data.local}/{split}.jsonl")
    return files


def _add_included(path: Path, files: list[Path]) -> None:
    """Add a YAML file and the files that it includes to `files`, each one once.

    A file that cannot be read includes nothing here. The preparation of the task reports it."""
    package = Path(find_spec("lm_eval").origin).resolve().parent
    if path in files or path.is_relative_to(package):
        return
    try:
        content = yaml.load(path.read_bytes(), _Loader)
    except (yaml.YAMLError, OSError):
        content = None
    files.append(path)
    names = content.get("include", []) if isinstance(content, dict) else []
    for name in [names] if isinstance(names, str) else names:
        _add_included((path.parent / name).resolve(), files)


def selection_files(data: TaskData) -> list[str]:
    """Return the file of the split selection in a local task's folder; nothing if there is none."""
    file = local_file(Path(data.local), SELECTION, is_text=data.kind == "text") if data.local else None
    return [str(file)] if file else []
