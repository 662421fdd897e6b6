# The functions that give a job its input files and its flags. A path may have wildcards, which Snakemake fills in.
from sparseft.methods import SELF, TASK, get_method
from sparseft.data.task_files import selection_files, task_files
from sparseft.planning.inputs import fetched_files, model_files, source_manifests
from sparseft.study.schedule import Training
from sparseft.study.section import Role
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
    """Return an input function for the user's own files. Their dates decide nothing: `running` compares what is in them."""
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


def task_flags(w):
    """Return the flags that decide the training rows and the definition of a task. A probe may lack training rows."""
    return flags(task=w.task, only_probe=w.task not in STUDY.grid.tasks, **STUDY.task_data(w.task).of_training)


def of_split(split):
    """Return a function that gives the flags of a preparation of one split, which decide no training row."""
    return lambda w, input: flags(splits=split, validation_examples=STUDY.task_data(w.task).validation_examples)


def mask_text(w):
    """Return the prepared text on which a mask is calibrated; None if its method looks at no text."""
    name = get_method(w.method).calibration
    return targets.text_path(STUDY, name, w.model, cell_of(w).task) if name else None


def mask_examples(w):
    """Return the files of the examples that a method looks at: a task's, a text's, or none."""
    if text := mask_text(w):
        return [text, f"{text}.json"]
    return targets.data_files(STUDY, cell_of(w).task, "train") if get_method(w.method).uses_task else []


def mask_flags(w):
    """Return the flags with the settings of a method, its examples, and the place of its pruned base."""
    method, task = get_method(w.method), cell_of(w).task
    examples = {"task": task, "data_dir": grid.DATA.format(task=task)} if method.uses_task else {}
    if method.calibration:
        examples = {"text": mask_text(w)}
    base = f"{grid.PRUNED_BASES.format(model=w.model)}{w.task_folder}" if method.has_pruned_base else None
    # Another number of threads changes the last bits of the scores from examples.
    threads = STUDY.resources.threads if method.uses_examples else None
    return flags(method=w.method, **examples, pruned_dir=base, threads=threads, **STUDY.masks.used_by(method))


def named_texts(is_such):
    """Return an expression for the names of the calibration texts of a kind."""
    return "|".join(name for name, text in STUDY.texts.items() if is_such(text)) or "none"


def parts_of(w):
    """Return the prepared texts that are the parts of a mixture."""
    names = [name for name in STUDY.texts[w.text].parts if name != TASK]
    return [targets.text_path(STUDY, name, w.model, TASK) for name in names]


def mixture_flags(w):
    """Return the flags with the number of windows of each part of a mixture, and how they are chosen."""
    text = STUDY.texts[w.text]
    windows = text.windows_of_parts()
    of_task = {"task": cell_of(w).task, "task_windows": windows.pop(TASK)} if w.task_folder else {}
    return flags(windows=list(windows.values()), **of_task, **text.model_dump(include={"length", "seed", "choice"}))


def places(w, input, output):
    """Return the flags with the named files of a job. --*_dir gets their folder, and a manifest stands for its own."""
    named = {}
    for name, files in (*input.items(), *output.items()):
        first = Path(files if isinstance(files, str) else next(iter(files), ""))
        is_folder = first.name == "manifest.json" or (name.endswith("_dir") and first.suffix)
        named[name] = first.parent if is_folder else files
    return flags(**named)


def of_pass(w, input, threads):
    """Return the flags of a pass that decide no bit of a mask, which is the same in any pass and for any number of threads."""
    return flags(
        sparsity=[f"0.{percent}" for percent in ([w.sparsity] if w.get("sparsity") else TOGETHER)],
        plot=True,
        is_added=bool(w.get("sparsity")),
        threads=None if get_method(w.method).uses_examples else threads,
    )


def saving(w, input):
    """Return the flags of a training's schedule that change no bit."""
    return schedule_flags(w.mode, w.task, w.training, True)


def job_flags(w, evaluates):
    """Return the flags that every training has. Another number of threads changes the last bits."""
    batch_size = STUDY.evaluation_batch_size if evaluates else None
    run_id = grid.RUN_ID.format(**w)
    return flags(run_id=run_id, threads=STUDY.resources.threads, evaluation_batch_size=batch_size)


# Many runs need the same flags.
@cache
def schedule_flags(mode, task, training, is_saving):
    """Return the flags of a mode's schedule on a task in a training: its keys that change no bit, or the others."""
    schedule = STUDY.schedule_of(mode, task, grid.training_name(training))
    saving, unused = Training.keys_of(Role.SAVING), Training.unused_in(mode)
    return flags(**{key: value for key, value in schedule if (key in saving) == is_saving and key not in unused})


def run_settings(w):
    """Return the flags of a run's training that decide its adapter."""
    return f"{job_flags(w, evaluates(w))} {schedule_flags(w.mode, w.task, w.training, False)}"


def scoring_flags(w, **besides):
    """Return the flags of an evaluation, with what it evaluates `besides` the task. Other threads change the last bits."""
    common = {"batch_size": STUDY.evaluation_batch_size, "threads": STUDY.resources.threads}
    return flags(run_id=grid.RUN_ID.format(**w), task=w.task, **common, **besides)


def scored_besides(w):
    """Return the flags of an evaluation on the task, on the probes and on the perplexity's text."""
    text = {"wikitext2": grid.WIKITEXT2, "context": STUDY.perplexity.context} if STUDY.perplexity else {}
    # They are not declared as an output, because Snakemake ignores the params of a finished job that gets a new one.
    files = f"{PATHS.run}/lm_eval".format(**w) if STUDY.evaluation.lm_eval_files else None
    return scoring_flags(w, probes=targets.probe_places(STUDY, w.task), lm_eval_files=files, **text)
