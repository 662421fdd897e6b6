"""List the user's own files that a task is prepared from."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from sparseft.axes.tasks.task import SPLITS
from sparseft.data.loading import local_file
from sparseft.data.selection_rows import SELECTION
from sparseft.data.settings import TaskData


def task_files(data: TaskData, splits: Iterable[str] = SPLITS) -> list[str]:
    """Return the user's own files that a task is prepared from: those of these splits in its folder, and its YAML file.

    A YAML file comes with all files outside lm-eval's package that it includes."""
    files = []
    if data.lm_eval_file:
        included: list[Path] = []
        _add_included(Path(data.lm_eval_file).resolve(), included)
        # The first file has the name that it has in the configuration. The others are relative to the study's folder,
        # so that a moved study has the same inputs.
        files = [data.lm_eval_file, *map(os.path.relpath, included[1:])]
    # Text may also be in .txt files. The last place is listed even if it is missing, so that it is reported.
    for split in splits if data.local else ():
        text = f"{data.local}/{split}.txt"
        files.append(text if data.kind == "text" and Path(text).exists() else f"{data.local}/{split}.jsonl")
    return files


def _add_included(path: Path, files: list[Path]) -> None:
    """Add a YAML file and the files that it includes to `files`, each one once.

    A file that does not hold plain data counts as including nothing. The preparation of the task reports it."""
    spec: Any = find_spec("lm_eval")
    package = Path(spec.origin).resolve().parent
    if path in files or path.is_relative_to(package):
        return
    files.append(path)
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, OSError):
        return
    names = content.get("include", []) if isinstance(content, dict) else []
    for name in [names] if isinstance(names, str) else names:
        _add_included((path.parent / name).resolve(), files)


def selection_files(data: TaskData) -> list[str]:
    """Return the file of the split selection in a local task's folder; nothing if there is none."""
    file = local_file(data, SELECTION)
    return [str(file)] if file else []
