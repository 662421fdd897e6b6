"""Write the flags of the workflow's jobs, as the configuration and a job's wildcards decide them.

`cell` has the wildcards by name. Without a task among them, it is "".
"""

from typing import Any

from sparseft.methods import TASK, get_method
from sparseft.study import grid, targets
from sparseft.study.config import Config
from sparseft.study.schedule import Training
from sparseft.study.section import Role, flags


def of_task(config: Config, cell: Any) -> str:
    """Return the flags that decide the training rows and the definition of a task. A probe may lack training rows."""
    return flags(
        task=cell.task, only_probe=cell.task not in config.grid.tasks, **config.task_data(cell.task).of_training
    )


def of_mask(config: Config, cell: Any) -> str:
    """Return the flags with the settings of a method, its examples, and the place of its pruned base."""
    method = get_method(cell.method)
    examples = {"task": cell.task, "data_dir": grid.DATA.format(task=cell.task)} if method.uses_task else {}
    if method.calibration:
        examples = {"text": targets.text_path(config, method.calibration, cell.model, cell.task)}
    base = f"{grid.PRUNED_BASES.format(model=cell.model)}{cell.task_folder}" if method.has_pruned_base else None
    # Another number of threads changes the last bits of the scores from examples.
    threads = config.resources.threads if method.uses_examples else None
    return flags(method=cell.method, **examples, pruned_dir=base, threads=threads, **config.masks.used_by(method))


def of_mixture(config: Config, cell: Any) -> str:
    """Return the flags with the number of windows of each part of a mixture, and how they are chosen."""
    text = config.texts[cell.text]
    windows = text.windows_of_parts()
    examples = {"task": cell.task, "task_windows": windows.pop(TASK)} if cell.task else {}
    return flags(windows=list(windows.values()), **examples, **text.model_dump(include={"length", "seed", "choice"}))


def of_training(config: Config, cell: Any, evaluates: bool) -> str:
    """Return the flags that every training has. Another number of threads changes the last bits."""
    batch_size = config.evaluation_batch_size if evaluates else None
    run_id = grid.RUN_ID.format(**vars(cell))
    return flags(run_id=run_id, threads=config.resources.threads, evaluation_batch_size=batch_size)


def of_schedule(config: Config, mode: str, task: str, training: str, is_saving: bool) -> str:
    """Return the flags of a mode's schedule on a task: its keys that change no bit, or the others."""
    schedule = config.schedule_of(mode, task, grid.training_name(training))
    saving, unused = Training.keys_of(Role.SAVING), Training.unused_in(mode)
    return flags(**{key: value for key, value in schedule if (key in saving) == is_saving and key not in unused})


def of_scoring(config: Config, cell: Any, **more: object) -> str:
    """Return the flags of an evaluation on the task, and of what it evaluates in addition. Another number of threads
    changes the last bits."""
    common = {"batch_size": config.evaluation_batch_size, "threads": config.resources.threads}
    return flags(run_id=grid.RUN_ID.format(**vars(cell)), task=cell.task, **common, **more)


def of_evaluation(config: Config, cell: Any) -> str:
    """Return the flags of an evaluation on the task, on the probes and on the perplexity's text."""
    text = {"wikitext2": grid.WIKITEXT2, "context": config.perplexity.context} if config.perplexity else {}
    return of_scoring(config, cell, probes=targets.probe_places(config, cell.task), **text)
