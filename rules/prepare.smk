# Make a Hugging Face checkpoint from a model's source. manifest.json is written last, so that it stands for the whole folder.
rule prepare_model:
    input:
        model_sources,
    output:
        manifest=grid.MANIFEST,
    log:
        "<logs>/prepare_model/{model}.log",
    benchmark:
        "<benchmarks>/prepare_model/{model}.tsv"
    conda:
        "../envs/sparseft.yaml"
    resources:
        # A GGUF file's whole model is in float32 while it is dequantised.
        mem_mb=memory("prepare"),
        runtime=minutes("prepare"),
    params:
        code=code("prepare_model.py"),
        content=content(model_sources),
        folder=subpath(output.manifest, parent=True),
        source=lambda w: flags(**STUDY.models[w.model].model_dump()),
    message:
        "prepare the model {wildcards.model}"
    shell:
        'python "$SCRIPTS/prepare_model.py"' " {params.source}" " --output_dir {params.folder:q}" " 2> {log:q}"


# Prepare the examples of a task, in the fields of the original data set.
rule prepare_task:
    input:
        task_sources,
    output:
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        manifest=f"{grid.DATA}/manifest.json",
    log:
        "<logs>/prepare_task/{task}.log",
    benchmark:
        "<benchmarks>/prepare_task/{task}.tsv"
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("prepare_task.py"),
        content=content(task_sources),
        folder=subpath(output.train, parent=True),
        # A probe may lack training rows.
        source=lambda w: flags(
            task=w.task,
            only_probe=w.task not in STUDY.grid.tasks,
            **STUDY.task_data(w.task).model_dump(exclude={"training", "selection_examples"}),
        ),
    message:
        "prepare the examples of {wildcards.task}"
    shell:
        'python "$SCRIPTS/prepare_task.py"' " {params.source}" " --output_dir {params.folder:q}" " 2> {log:q}"


# Choose the rows on which the trainings of a study are compared. They are neither training rows nor
# validation rows. This is a rule of its own, so that it leaves those files as they are.
rule prepare_selection:
    input:
        selection_sources,
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        manifest=f"{grid.DATA}/manifest.json",
    output:
        rows=f"{grid.DATA}/selection.jsonl",
        manifest=f"{grid.DATA}/selection_manifest.json",
    log:
        "<logs>/prepare_selection/{task}.log",
    benchmark:
        "<benchmarks>/prepare_selection/{task}.tsv"
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("prepare_selection.py"),
        content=content(selection_sources),
        folder=subpath(output.rows, parent=True),
        source=lambda w: flags(task=w.task, **STUDY.task_data(w.task).model_dump(exclude={"training"})),
    message:
        "choose the selection examples of {wildcards.task}"
    shell:
        'python "$SCRIPTS/prepare_selection.py"' " {params.source}" " --data_dir {params.folder:q}" " 2> {log:q}"


# Prepare the text of the perplexity, which is WikiText-2's test split or the user's own, and record where it comes from.
rule prepare_wikitext2:
    input:
        perplexity_sources,
    output:
        text=grid.WIKITEXT2,
        source=grid.WIKITEXT2_SOURCE,
    log:
        "<logs>/prepare_wikitext2.log",
    benchmark:
        "<benchmarks>/prepare_wikitext2.tsv"
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("prepare_wikitext2.py"),
        content=content(perplexity_sources),
        source=flags(**STUDY.perplexity.model_dump(exclude={"context"})) if STUDY.perplexity else "",
    message:
        "prepare WikiText-2"
    shell:
        'python "$SCRIPTS/prepare_wikitext2.py"' " {params.source}" " --output {output.text:q}" " 2> {log:q}"


# Prepare a text on which importances calibrate, and record where it comes from.
rule prepare_calibration:
    input:
        calibration_sources,
    output:
        text=grid.CALIBRATION,
        source=grid.CALIBRATION_SOURCE,
    log:
        "<logs>/prepare_calibration/{text}.log",
    benchmark:
        "<benchmarks>/prepare_calibration/{text}.tsv"
    wildcard_constraints:
        text="|".join(STUDY.masks.calibration) or "none",
    conda:
        "../envs/sparseft.yaml"
    resources:
        # A file of C4 is 0.8 GB of text, which is in memory as documents and as the rows of the data set.
        mem_mb=lambda w, attempt: 4000 * attempt,
    params:
        code=code("prepare_text.py"),
        content=content(calibration_sources),
        source=lambda w: flags(text=STUDY.masks.calibration[w.text].text),
    message:
        "prepare the calibration text {wildcards.text}"
    shell:
        'python "$SCRIPTS/prepare_text.py"' " {params.source}" " --output {output.text:q}" " 2> {log:q}"
