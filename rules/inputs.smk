# The functions that give a job its input files.
from sparseft.models.checkpoints.settings import pruned_base
from sparseft.data.settings import DIVERGENCE
from sparseft.data.task_files import selection_files, task_files
from sparseft.axes.methods import SELF, TASK
from sparseft.study import ship
from sparseft.study.inputs import fetched_files, model_files, source_manifests

# Of a run: the manifest of the weights from which it starts, its mask, and what its training hands on.
base_of = lambda w: grid.base_manifest(w.method)
mask_of = lambda w: grid.mask_path(w.method)
trained_of = lambda w: PATHS.trained(run_of(w))
# The manifest of the model that was pruned first.
original_of = lambda w: grid.MANIFEST.format(model=STUDY.original(w.model))
# The prepared rows of a run's task, and the file that defines how they are scored; and their folder.
rows_of = lambda w: targets.data_files(STUDY, w.task, w.model)
folder_of_rows = lambda w: STUDY.data_folder(w.task, w.model)
# The folder of a job's first output.
folder_of = lambda w, output: Path(output[0]).parent
# The content of the user's own files. Their dates decide nothing (`ancient`).
content_of = lambda files_of: lambda w: HASHES.joint(files_of(w))


def run_of(w):
    """Return the run of a job."""
    training = grid.training_name(w.training)
    return grid.Run(w.model, w.task, w.method, int(w.sparsity), w.mode, int(w.seed), training=training)


def own_files(files):
    """Return an input function for the user's own files."""
    return lambda w: ancient(list(filter(None, files(w))))


# Many runs ask for the same mode, task and training.
evaluates = cache(STUDY.evaluates)


def trained_rows(w):
    """Return the rows that a training reads. No validation row decides it, unless it evaluates during the training."""
    splits = [] if evaluates(w.mode, w.task, grid.training_name(w.training)) else ["train"]
    return targets.data_files(STUDY, w.task, w.model, *splits)


def pruned_source(w):
    """Return the manifest of the pruned base that a model is made from; nothing if it has another source."""
    source = STUDY.models[w.model].source
    return f"pruned/{source.partition(':')[2]}/manifest.json" if pruned_base(source) else []


def parts_of(w):
    """Return the prepared texts that are the parts of a mixture, in its order."""
    return targets.text_paths(STUDY, [part for part in STUDY.texts[w.text].parts if part != TASK], w.model, TASK)


def named_texts(is_such):
    """Return an expression for the names of the calibration texts of a kind."""
    return "|".join(name for name, text in STUDY.texts.items() if is_such(text)) or "none"


def teacher_of(w):
    """Return the model that a training learns from, if it distils. With the user's texts, the candidates of `ship`
    learn from the dense model that was trained on them (benchmarks/results/recovered.md)."""
    if not STUDY.training_of(w.task, grid.training_name(w.training)).distillation:
        return []
    if int(w.sparsity) and ship.HELD_OUT in STUDY.texts:
        (dense,) = ship.runs(STUDY.ship.model, STUDY.ship.mode, {})
        return f"{grid.fill(PATHS.run, dense)}/export/manifest.json"
    return original_of(w)
