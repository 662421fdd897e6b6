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
        **running("prepare_model.py", sources=model_sources, kind="prepare"),
        settings=lambda w: flags(**STUDY.models[w.model].model_dump()),


# The training rows of a task, and its definition.
use rule run_script as prepare_task with:
    input:
        training_sources,
    output:
        output_dir=[f"{grid.DATA}/train.jsonl", f"{grid.DATA}/manifest.json"],
    pathvars:
        job="prepare_task/{task}",
    # The first job, because it refuses a task that cannot be trained.
    priority: 1
    params:
        **running("prepare_task.py", sources=training_sources),
        settings=lambda w: job_flags.of_task(STUDY, cell_of(w)),
        others=of_split("train"),


# Apart from the training rows, so that more validation rows train nothing again.
use rule prepare_task as prepare_validation with:
    input:
        validation_sources,
        rules.prepare_task.output,
    output:
        output_dir=[f"{grid.DATA}/validation.jsonl", f"{grid.DATA}/validation_manifest.json"],
    pathvars:
        job="prepare_validation/{task}",
    params:
        **running("prepare_task.py", sources=validation_sources),
        number=lambda w: STUDY.task_data(w.task).validation_examples,
        others=of_split("validation"),


# The rows on which the trainings of a study are compared.
use rule run_script as prepare_selection with:
    input:
        selection_sources,
        rules.prepare_task.output,
        rules.prepare_validation.output,
    output:
        data_dir=[f"{grid.DATA}/selection.jsonl", f"{grid.DATA}/selection_manifest.json"],
    pathvars:
        job="prepare_selection/{task}",
    params:
        **running("prepare_selection.py", sources=selection_sources),
        settings=lambda w: flags(task=w.task, **STUDY.task_data(w.task).model_dump(exclude={"training"})),


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
        **running("prepare_text.py", sources=perplexity_sources),
        settings=flags(text=STUDY.perplexity.text, split="test") if STUDY.perplexity else "",


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
        **running("prepare_text.py", sources=calibration_sources),
        settings=lambda w: flags(text=STUDY.texts[w.text].text),


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
    threads: STUDY.resources.threads
    params:
        **running("sample_text.py", kind="sampling"),
        settings=lambda w: flags(
            **STUDY.texts[w.text].model_dump(include={"examples", "length", "seed", "temperature"}),
            threads=STUDY.resources.threads,
        ),


# Windows of several texts, as token ids of a model. If the task's examples are among them, it is one per task.
use rule run_script as mix_texts with:
    input:
        lambda w: [f"{text}.json" for text in parts_of(w)],
        model_path=grid.MANIFEST,
        text=lambda w: parts_of(w),
        data_dir=lambda w: targets.data_files(STUDY, cell_of(w).task, "train") if w.task_folder else [],
    output:
        f"{grid.MIXED}.json",
        output=grid.MIXED,
    pathvars:
        job="mix_texts/{text}-{model}{task_folder}",
    wildcard_constraints:
        text=named_texts(lambda text: text.parts),
    params:
        **running("mix_texts.py"),
        settings=lambda w: job_flags.of_mixture(STUDY, cell_of(w)),
