# The functions that give a job its input files and its flags. A path may have wildcards, which Snakemake fills in.
from types import SimpleNamespace

from sparseft.methods import get_method
from sparseft.planning.inputs import model_files, selection_files, task_files

# The manifest of the weights from which a run starts, its mask, and the files that define how its task's rows are scored.
base_of = with_signature(lambda w: grid.base_manifest(w.method))
mask_of = with_signature(lambda w: grid.mask_path(w.method))
definition_of = with_signature(lambda w: targets.definition_files(STUDY, w.task))
# The prepared rows of a run's task, and how they are scored.
TASK_FILES = {
    "train": f"{grid.DATA}/train.jsonl",
    "validation": f"{grid.DATA}/validation.jsonl",
    "definition": definition_of,
}


def own_files(files):
    """Return an input function for the user's own files. Their dates decide nothing: `content` compares what is in them."""
    return with_signature(lambda w: ancient(files(w)))


# The local files of a model, a task, its split selection, the perplexity's text, a calibration text, and a pruned checkpoint.
model_sources = own_files(lambda w: model_files(STUDY.models[w.model].source))
task_sources = own_files(lambda w: task_files(STUDY.task_data(w.task)))
selection_sources = own_files(lambda w: selection_files(STUDY.task_data(w.task)))
perplexity_sources = own_files(
    lambda w: [STUDY.perplexity.local] if STUDY.perplexity and STUDY.perplexity.local else []
)
calibration_sources = own_files(lambda w: list(filter(None, [STUDY.masks.calibration[w.text].local])))
imported_sources = own_files(lambda w: model_files(STUDY.masks.imported_source(w.method, int(w.sparsity))))


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
    return flags(method=w.method, **examples, pruned_dir=base, **STUDY.masks.used_by(w.method))


@with_signature
def mask_code(w):
    """Return the digest of the code that makes the masks of a method."""
    return code("compute_masks.py")(vars(mask_job(w)))


def uses_examples(w):
    """Return whether the masks of a method depend on examples, on which the model runs."""
    return get_method(w.method).uses_examples


@with_signature
def pass_places(w, input, output, threads):
    """Return the flags of a pass that decide no bit of a mask, which is the same in any pass and for any number of threads."""
    return flags(
        model_path=Path(input.manifest).parent,
        output_dir=Path(output.report).parent,
        sparsity=[f"0.{percent}" for percent in ([w.sparsity] if w.get("sparsity") else TOGETHER)],
        is_added=bool(w.get("sparsity")),
        # Scores from examples are made with the threads in `cores`, whatever Snakemake gives.
        threads=STUDY.resources.threads if uses_examples(w) else threads,
        plot=True,
    )


def job_flags(run_id):
    """Return the flags that every training has. Another number of threads changes the last bits."""
    batch_size = STUDY.evaluation_batch_size
    return flags(run_id=run_id, threads=STUDY.resources.threads, evaluation_batch_size=batch_size)


@with_signature
def job_places(w, input, output):
    """Return the flags with the files of a training."""
    return flags(
        model_path=Path(input.manifest).parent,
        mask_path=input.mask,
        data_dir=Path(input.train).parent,
        output_dir=Path(output.record).parent,
    )


@with_signature
def run_settings(w):
    """Return the flags of a run's training."""
    return f"{job_flags(grid.RUN_ID.format(**w))} {training_flags(w.mode, w.task, w.training)}"


# Another number of threads changes the last bits.
def scoring(w, **besides):
    """Return the flags of an evaluation, with what it evaluates and reads `besides` the task."""
    common = {"batch_size": STUDY.evaluation_batch_size, "threads": STUDY.resources.threads}
    return flags(run_id=grid.RUN_ID.format(**w), task=w.task, **common, **besides)


@with_signature
def scored_besides(w):
    """Return the flags of the evaluation of a merged model on its task, on the probes and on the perplexity's text."""
    text = {"wikitext2": grid.WIKITEXT2, "context": STUDY.perplexity.context} if STUDY.perplexity else {}
    probes, seen = targets.probe_places(STUDY, w.task), targets.seen_texts(STUDY, w.mode, w.method)
    return scoring(w, probes=probes, calibration=seen, **text)


@with_signature
def scored_model(w, input, output):
    """Return the flags with the files of the evaluation of a merged model."""
    return flags(checkpoint=input.model, data_dir=Path(input.train).parent, output=output.record)
