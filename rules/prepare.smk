from sparseft.stages import mix_texts, prepare_model, prepare_selection, prepare_task, prepare_text, sample_text

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
# The task whose training examples are a part of a mixture.
task_of = lambda w: w.task_folder.removeprefix("/")
examples_of_mixture = lambda w: targets.data_files(STUDY, task_of(w), w.model, "train") if w.task_folder else []


# Make a Hugging Face checkpoint from a model's source. manifest.json is written last and stands for the whole folder.
rule prepare_model:
    input:
        model_sources,
        pruned_source,
    output:
        # `update` keeps the record by which the folder is known as ours.
        update(grid.MANIFEST),
    log:
        f"{PATHS.logs}/prepare_model/{{model}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_model/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_model)
    resources:
        mem_mb=memory_of(prepare_model),
        runtime=minutes_of(prepare_model),
        gpu=gpus_of(prepare_model),
    params:
        settings=settings_of(prepare_model),
        version=version_of(prepare_model),
        content=content_of(model_sources),
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_model.py" " --output_dir {output:q} {params.settings} > {log:q} 2>&1"


# The training rows of a task, and its definition.
rule prepare_task:
    input:
        training_sources,
        windows=training_windows_of,
    output:
        manifest=f"{DATA}/manifest.json",
        rows=f"{DATA}/train.jsonl",
    log:
        f"{PATHS.logs}/prepare_task/{{task}}{{sampler}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_task/{{task}}{{sampler}}.tsv"
    # The first job, because it refuses a task that cannot be trained.
    priority: 1
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_task)
    resources:
        mem_mb=memory_of(prepare_task),
        runtime=minutes_of(prepare_task),
        gpu=gpus_of(prepare_task),
    params:
        settings=settings_of(prepare_task, split="train"),
        version=version_of(prepare_task),
        effort=effort_of(prepare_task),
        content=content_of(training_sources),
        optional=lambda w, input: flags(windows=input.windows),
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_task.py"
        " --splits train --output_dir {params.folder:q} {params.optional} {params.settings} {params.effort} > {log:q} 2>&1"


# Apart from the training rows, so that more validation rows train nothing again.
rule prepare_validation:
    input:
        validation_sources,
        rules.prepare_task.output,
        windows=windows_of,
    output:
        manifest=f"{DATA}/validation_manifest.json",
        rows=f"{DATA}/validation.jsonl",
    log:
        f"{PATHS.logs}/prepare_validation/{{task}}{{sampler}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_validation/{{task}}{{sampler}}.tsv"
    priority: 1
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_task)
    resources:
        mem_mb=memory_of(prepare_task),
        runtime=minutes_of(prepare_task),
        gpu=gpus_of(prepare_task),
    params:
        settings=settings_of(prepare_task, split="validation"),
        version=version_of(prepare_task),
        content=content_of(validation_sources),
        optional=lambda w, input: flags(windows=input.windows),
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_task.py"
        " --splits validation --output_dir {params.folder:q} {params.optional} {params.settings} > {log:q} 2>&1"


# The rows on which the trainings of a study are compared.
rule prepare_selection:
    input:
        selection_sources,
        rules.prepare_task.output,
        rules.prepare_validation.output,
        windows=windows_of,
    output:
        f"{DATA}/selection.jsonl",
        f"{DATA}/selection_manifest.json",
    log:
        f"{PATHS.logs}/prepare_selection/{{task}}{{sampler}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_selection/{{task}}{{sampler}}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_selection)
    resources:
        mem_mb=memory_of(prepare_selection),
        runtime=minutes_of(prepare_selection),
        gpu=gpus_of(prepare_selection),
    params:
        settings=settings_of(prepare_selection),
        version=version_of(prepare_selection),
        content=content_of(selection_sources),
        optional=lambda w, input: flags(windows=input.windows),
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_selection.py"
        " --data_dir {params.folder:q} {params.optional} {params.settings} > {log:q} 2>&1"


# The text of the perplexity: WikiText-2's test split, or the user's own.
rule prepare_wikitext2:
    input:
        perplexity_sources,
    output:
        text=grid.WIKITEXT2,
        source=f"{grid.WIKITEXT2}.json",
    log:
        f"{PATHS.logs}/prepare_wikitext2.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_wikitext2.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_text)
    resources:
        mem_mb=memory_of(prepare_text),
        runtime=minutes_of(prepare_text),
        gpu=gpus_of(prepare_text),
    params:
        settings=settings_of(prepare_text),
        version=version_of(prepare_text),
        content=content_of(perplexity_sources),
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_text.py" " --output {output.text:q} {params.settings} > {log:q} 2>&1"


# A text on which importances calibrate.
rule prepare_calibration:
    input:
        calibration_sources,
    output:
        text=grid.CALIBRATION,
        source=f"{grid.CALIBRATION}.json",
    log:
        f"{PATHS.logs}/prepare_calibration/{{text}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prepare_calibration/{{text}}.tsv"
    wildcard_constraints:
        text=named_texts(lambda text: not text.has_own_windows),
    conda:
        ENVIRONMENT
    threads: threads_of(prepare_text)
    resources:
        mem_mb=memory_of(prepare_text),
        runtime=minutes_of(prepare_text),
        gpu=gpus_of(prepare_text),
    params:
        settings=settings_of(prepare_text),
        version=version_of(prepare_text),
        content=content_of(calibration_sources),
    shell:
        f"{PYTHON} {SCRIPTS}/prepare_text.py" " --output {output.text:q} {params.settings} > {log:q} 2>&1"


# A text that the dense model samples, on which importances calibrate or the divergence is measured.
rule sample_text:
    input:
        model_path=grid.MANIFEST,
    output:
        text=grid.SAMPLED,
        source=f"{grid.SAMPLED}.json",
    log:
        f"{PATHS.logs}/sample_text/{{text}}-{{model}}.log",
    benchmark:
        f"{PATHS.benchmarks}/sample_text/{{text}}-{{model}}.tsv"
    wildcard_constraints:
        text=named_texts(lambda text: text.text == SELF),
    conda:
        ENVIRONMENT
    threads: threads_of(sample_text)
    resources:
        mem_mb=memory_of(sample_text),
        runtime=minutes_of(sample_text),
        gpu=gpus_of(sample_text),
    params:
        settings=settings_of(sample_text),
        version=version_of(sample_text),
    shell:
        f"{PYTHON} {SCRIPTS}/sample_text.py"
        " --model_path {input.model_path:q} --output {output.text:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Windows of several texts, as token ids of a model. If the task's examples are among them, it is one per task.
rule mix_texts:
    input:
        # Snakemake ignores their order, which the settings have.
        lambda w: parts_of(w) + [f"{text}.json" for text in parts_of(w)],
        examples_of_mixture,
        model_path=grid.MANIFEST,
    output:
        text=grid.MIXED,
        source=f"{grid.MIXED}.json",
    log:
        f"{PATHS.logs}/mix_texts/{{text}}-{{model}}{{task_folder}}.log",
    benchmark:
        f"{PATHS.benchmarks}/mix_texts/{{text}}-{{model}}{{task_folder}}.tsv"
    wildcard_constraints:
        text=named_texts(lambda text: text.parts),
    conda:
        ENVIRONMENT
    threads: threads_of(mix_texts)
    resources:
        mem_mb=memory_of(mix_texts),
        runtime=minutes_of(mix_texts),
        gpu=gpus_of(mix_texts),
    params:
        settings=settings_of(mix_texts),
        version=version_of(mix_texts),
        optional=lambda w: flags(data_dir=STUDY.data_folder(task_of(w), w.model) if w.task_folder else None),
    shell:
        f"{PYTHON} {SCRIPTS}/mix_texts.py"
        " --model_path {input.model_path:q} --output {output.text:q} {params.optional} {params.settings} > {log:q} 2>&1"
