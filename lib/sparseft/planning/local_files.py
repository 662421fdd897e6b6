"""The user's own files that a model or a task is prepared from, so that a changed file is prepared again."""

from pathlib import Path

from sparseft.checkpoints.checkpoint import small_files
from sparseft.methods import get_method
from sparseft.study.config import Config, TaskData, split_mdl
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


def missing_data_files(config: Config) -> list[str]:
    """Return a text for each local file of the study's tasks and texts that is missing, with its place in the configuration.

    Snakemake would not notice such a file if the data that were made of another one are there."""
    tasks = dict.fromkeys([*config.grid.tasks, *config.evaluation.probes])
    places = {f"tasks.{name}": task_files(config.task_data(name)) for name in tasks}
    for method in config.grid.methods:
        text = config.masks.text_of(method)
        if text and text.local:
            places[f"masks.calibration.{get_method(method).calibration}.text"] = [text.local]
    if config.perplexity and config.perplexity.local:
        places["perplexity.local"] = [config.perplexity.local]
    return [
        f"{place}: {file}: no such file" for place, files in places.items() for file in files if not Path(file).exists()
    ]


def task_files(data: TaskData) -> list[str]:
    """Return the user's own files that a task is prepared from: those of its folder, and its YAML file."""
    definitions = [data.lm_eval_file] if data.lm_eval_file else []
    return definitions + rows_files(data)


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
