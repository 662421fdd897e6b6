# The input functions. A path may have wildcards, which Snakemake fills in.
from types import SimpleNamespace

from sparseft.methods import get_method
from sparseft.planning.inputs import model_files, selection_files, task_files


@with_signature
def base_of(w):
    """Return the manifest of the weights from which a run starts."""
    return grid.base_manifest(w.method)


@with_signature
def mask_of(w):
    """Return the mask of a run."""
    return grid.mask_path(w.method)


@with_signature
def definition_of(w):
    """Return the files that define how the rows of a run's task are scored."""
    return targets.definition_files(STUDY, w.task)


# The user's own files that a job is made from. Their dates decide nothing (`ancient`): `content` compares what is in them.
@with_signature
def model_sources(w):
    """Return the files of a model's local source that a result depends on: weights, configuration and tokenizer."""
    return ancient(model_files(STUDY.models[w.model].source))


@with_signature
def task_sources(w):
    """Return the files of a task's local source."""
    return ancient(task_files(STUDY.task_data(w.task)))


@with_signature
def selection_sources(w):
    """Return the file of the split selection in a task's local source, if there is one."""
    return ancient(selection_files(STUDY.task_data(w.task)))


@with_signature
def perplexity_sources(w):
    """Return the file of the perplexity's text, if it is local."""
    return ancient([STUDY.perplexity.local] if STUDY.perplexity and STUDY.perplexity.local else [])


@with_signature
def calibration_sources(w):
    """Return the file of a calibration text, if it is local."""
    local = STUDY.masks.calibration[w.text].local
    return ancient([local] if local else [])


@with_signature
def imported_sources(w):
    """Return the files of a checkpoint that another tool pruned."""
    return ancient(model_files(STUDY.masks.imported_source(w.method, int(w.sparsity))))


# What the masks of a method are made from. `task_folder` is "/" and a task if they depend on its examples; else it is empty.
def mask_job(w):
    """Return the model, the task and the method of a job that makes masks."""
    return SimpleNamespace(model=w.model, task=w.task_folder.removeprefix("/"), method=w.method)


@with_signature
def mask_examples(w):
    """Return the files of the examples that a method looks at: a task's, a text's, or none."""
    method = get_method(w.method)
    if method.uses_task:
        return f"{grid.DATA.format(task=mask_job(w).task)}/train.jsonl"
    text = grid.calibration_text(w.method) if method.calibration else None
    return [text, f"{text}.json"] if text else []


@with_signature
def mask_flags(w):
    """Return the flags with the settings of a method, its examples, and the place of its pruned base."""
    method = get_method(w.method)
    task = mask_job(w).task
    examples = {"task": task, "data_dir": grid.DATA.format(task=task)} if method.uses_task else {}
    if method.calibration:
        examples = {"text": grid.calibration_text(w.method)}
    base = f"{grid.PRUNED_BASES.format(model=w.model)}{w.task_folder}" if method.updates_weights else None
    return flags(**examples, pruned_dir=base, **STUDY.masks.used_by(w.method))


@with_signature
def mask_code(w):
    """Return the digest of the code that makes the masks of a method."""
    return code("compute_masks.py")(vars(mask_job(w)))


def uses_examples(w):
    """Return whether the masks of a method depend on examples, on which the model runs."""
    return get_method(w.method).uses_examples
