"""The user's own files that a model or a task is prepared from, so that a changed file is prepared again."""

from pathlib import Path

from sparseft.checkpoints.checkpoint import small_files
from sparseft.study.config import split_mdl
from sparseft.tasks.data_source import SPLITS


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


def task_files(folder: str | None) -> list[str]:
    """Return the files of a local task; none if the task has no folder of its own."""
    return [f"{folder}/{split}.jsonl" for split in SPLITS] if folder else []
