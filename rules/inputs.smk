# The input functions. A path may have wildcards, which Snakemake fills in.
from sparseft.planning.local_files import model_files, selection_files, task_files


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
