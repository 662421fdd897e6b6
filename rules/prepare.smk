model_sources = own_files(lambda w: model_files(STUDY.models[w.model].source))
training_sources = own_files(lambda w: task_files(STUDY.task_data(w.task), ["train"]))
validation_sources = own_files(lambda w: task_files(STUDY.task_data(w.task)))
selection_sources = own_files(lambda w: selection_files(STUDY.task_data(w.task)))
# The texts of windows that are the rows of a task.
windows_of = lambda w: targets.task_windows(STUDY, w.task, w.sampler)
# The validation rows decide no training row.
training_windows_of = lambda w: [*windows_of(w)[:1], *map(ancient, windows_of(w)[1:])]
DATA = f"{grid.DATA}{{sampler}}"
perplexity_sources = own_files(lambda w: [STUDY.perplexity.local] if STUDY.perplexity else [])
calibration_sources = own_files(lambda w: [STUDY.texts[w.text].local])


# Make a Hugging Face checkpoint from a model's source. manifest.json is written last and stands for the whole folder.
use rule run_script as prepare_model with:
    input:
        model_sources,
        pruned_source,
    output:
        # `update` keeps the record by which the folder is known as ours.
        output_dir=update(grid.MANIFEST),
    pathvars:
        job="prepare_model/{model}",
    params:
        **running("prepare_model", sources=model_sources),


# The training rows of a task, and its definition.
use rule run_script as prepare_task with:
    input:
        training_sources,
        windows=training_windows_of,
    output:
        output_dir=[f"{DATA}/train.jsonl", f"{DATA}/manifest.json"],
    pathvars:
        job="prepare_task/{task}{sampler}",
    # The first job, because it refuses a task that cannot be trained.
    priority: 1
    params:
        **running("prepare_task", sources=training_sources, split="train"),


# Apart from the training rows, so that more validation rows train nothing again.
use rule run_script as prepare_validation with:
    input:
        validation_sources,
        rules.prepare_task.output,
        windows=windows_of,
    output:
        output_dir=[f"{DATA}/validation.jsonl", f"{DATA}/validation_manifest.json"],
    pathvars:
        job="prepare_validation/{task}{sampler}",
    priority: 1
    params:
        **running("prepare_task", sources=validation_sources, split="validation"),


# The rows on which the trainings of a study are compared.
use rule run_script as prepare_selection with:
    input:
        selection_sources,
        rules.prepare_task.output,
        rules.prepare_validation.output,
        windows=windows_of,
    output:
        data_dir=[f"{DATA}/selection.jsonl", f"{DATA}/selection_manifest.json"],
    pathvars:
        job="prepare_selection/{task}{sampler}",
    params:
        **running("prepare_selection", sources=selection_sources),


# The text of the perplexity: WikiText-2's test split, or the user's own.
use rule run_script as prepare_wikitext2 with:
    input:
        perplexity_sources,
    output:
        f"{grid.WIKITEXT2}.json",
        output=grid.WIKITEXT2,
    pathvars:
        job="prepare_wikitext2",
    params:
        **running("prepare_text", sources=perplexity_sources),


# A text on which importances calibrate.
use rule run_script as prepare_calibration with:
    input:
        calibration_sources,
    output:
        f"{grid.CALIBRATION}.json",
        output=grid.CALIBRATION,
    pathvars:
        job="prepare_calibration/{text}",
    wildcard_constraints:
        text=named_texts(lambda text: not text.has_own_windows),
    params:
        **running("prepare_text", sources=calibration_sources),


# A text that the dense model samples, on which importances calibrate or the divergence is measured.
use rule run_script as sample_text with:
    input:
        model_path=grid.MANIFEST,
    output:
        f"{grid.SAMPLED}.json",
        output=grid.SAMPLED,
    pathvars:
        job="sample_text/{text}-{model}",
    wildcard_constraints:
        text=named_texts(lambda text: text.text == SELF),
    params:
        **running("sample_text"),


# Windows of several texts, as token ids of a model. If the task's examples are among them, it is one per task.
use rule run_script as mix_texts with:
    input:
        # Snakemake ignores their order, which the settings have.
        lambda w: parts_of(w) + [f"{text}.json" for text in parts_of(w)],
        model_path=grid.MANIFEST,
        data_dir=lambda w: targets.data_files(STUDY, with_task(w).task, w.model, "train") if w.task_folder else [],
    output:
        f"{grid.MIXED}.json",
        output=grid.MIXED,
    pathvars:
        job="mix_texts/{text}-{model}{task_folder}",
    wildcard_constraints:
        text=named_texts(lambda text: text.parts),
    params:
        **running("mix_texts"),
