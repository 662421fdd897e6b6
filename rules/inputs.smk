# The functions that give a job its input files and its flags. A path may have wildcards, which Snakemake fills in.
from sparseft.methods import SELF, TASK, get_method
from sparseft.data.task_files import selection_files, task_files
from sparseft.planning.inputs import fetched_files, model_files, source_manifests
from sparseft.data.settings import DIVERGENCE
from sparseft.checkpoints.settings import pruned_base

# The manifest of the weights from which a run starts, and its mask.
base_of = lambda w: grid.base_manifest(w.method)
mask_of = lambda w: grid.mask_path(w.method)
# What the training of a run hands on, and what that training continues itself.
trained_of = lambda w: PATHS.trained(run_of(w))
continued = lambda w: PATHS.trained(STUDY.start_of(run_of(w)))


def run_of(w):
    """Return the run of a job."""
    training = grid.training_name(w.training)
    return grid.Run(w.model, w.task, w.method, int(w.sparsity), w.mode, int(w.seed), training=training)


def training_of(w):
    """Return the schedule of a run's task in its training."""
    return STUDY.training_of(w.task, grid.training_name(w.training))


# The manifest of the model that was pruned first. It is the teacher of a distillation.
original_of = lambda w: grid.MANIFEST.format(model=STUDY.original(w.model))
teacher_of = lambda w: original_of(w) if training_of(w).distillation else []
# The prepared rows of a run's task, and the file that defines how they are scored.
rows_of = lambda w: targets.data_files(STUDY, w.task)
# The windows that the dense model has sampled, on which the divergence of a run from it is measured.
held_out = lambda w: [targets.text_path(STUDY, DIVERGENCE, w.model, w.task)] if STUDY.divergence_windows else []
# The texts on which a run's mask was calibrated, or its decoder layers reconstructed.
seen_texts = lambda w: targets.seen_texts(STUDY, w)


def own_files(files):
    """Return an input function for the user's own files. Their dates decide nothing, because `running` reads them."""
    return lambda w: ancient(list(filter(None, files(w))))


model_sources = own_files(lambda w: model_files(STUDY.models[w.model].source))
training_sources = own_files(lambda w: task_files(STUDY.task_data(w.task), ["train"]))
validation_sources = own_files(lambda w: task_files(STUDY.task_data(w.task)))
selection_sources = own_files(lambda w: selection_files(STUDY.task_data(w.task)))
perplexity_sources = own_files(lambda w: [STUDY.perplexity.local] if STUDY.perplexity else [])
calibration_sources = own_files(lambda w: [STUDY.texts[w.text].local])
imported_sources = own_files(lambda w: model_files(STUDY.pruned_source(w.model, w.method, int(w.sparsity)) or ""))


def pruned_source(w):
    """Return the manifest of the pruned base that a model is made from; nothing if it has another source."""
    source = STUDY.models[w.model].source
    return f"pruned/{source.partition(':')[2]}/manifest.json" if pruned_base(source) else []


# Whether the training of a mode, a task and a schedule computes evaluation losses. Many runs ask for the same.
evaluating = cache(STUDY.evaluates)
evaluates = lambda w: evaluating(w.mode, w.task, grid.training_name(w.training))


def trained_rows(w):
    """Return the rows that a training reads. No validation row decides it, unless it evaluates during the training."""
    return targets.data_files(STUDY, w.task, *([] if evaluates(w) else ["train"]))


def parts_of(w):
    """Return the prepared texts that are the parts of a mixture, in its order."""
    return targets.text_paths(STUDY, [part for part in STUDY.texts[w.text].parts if part != TASK], w.model, TASK)


def named_texts(is_such):
    """Return an expression for the names of the calibration texts of a kind."""
    return "|".join(name for name, text in STUDY.texts.items() if is_such(text)) or "none"
