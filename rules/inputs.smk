# The functions that give a job its input files and its flags. A path may have wildcards, which Snakemake fills in.
from functools import partial

from sparseft.methods import SELF, TASK, get_method
from sparseft.data.task_files import selection_files, task_files
from sparseft.planning.inputs import fetched_files, model_files, source_manifests
from sparseft.study import job_flags
from sparseft.study.sources import DIVERGENCE, pruned_base

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


# Many runs have the same flags of a schedule.
schedule_flags = cache(partial(job_flags.of_schedule, STUDY))
# Those that change no bit, and with the others all that decide the result of a training.
saving = lambda w, input: schedule_flags(w.mode, w.task, w.training, True)


def run_settings(w):
    """Return the flags of a run's training that decide its result."""
    shared = job_flags.of_training(STUDY, cell_of(w), evaluates(w))
    return f"{shared} {schedule_flags(w.mode, w.task, w.training, False)}"


def parts_of(w):
    """Return the prepared texts that are the parts of a mixture, in its order."""
    return targets.text_paths(STUDY, [part for part in STUDY.texts[w.text].parts if part != TASK], w.model, TASK)


def of_split(split):
    """Return a function that gives the flags of a preparation of one split, which decide no training row."""
    return lambda w, input: flags(splits=split, validation_examples=STUDY.task_data(w.task).validation_examples)


def named_texts(is_such):
    """Return an expression for the names of the calibration texts of a kind."""
    return "|".join(name for name, text in STUDY.texts.items() if is_such(text)) or "none"


def places(w, input, output):
    """Return the flags with the named files of a job. --*_dir gets their folder, and a manifest stands for its own."""
    named = {}
    for name, files in (*input.items(), *output.items()):
        first = Path(files if isinstance(files, str) else next(iter(files), ""))
        is_folder = first.name == "manifest.json" or (name.endswith("_dir") and first.suffix)
        named[name] = first.parent if is_folder else files
    return flags(**named)


def of_pass(w, input, threads):
    """Return the flags of a pass that decide no bit of a mask: it is the same in any pass, with any threads."""
    return flags(
        sparsity=[f"0.{percent}" for percent in ([w.sparsity] if w.get("sparsity") else TOGETHER)],
        plot=True,
        is_added=bool(w.get("sparsity")),
        threads=None if get_method(w.method).uses_examples else threads,
    )
