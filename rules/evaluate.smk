from sparseft.stages import evaluate

# The windows that the dense model has sampled, on which the divergence of a run from it is measured.
held_out = lambda w: [targets.text_path(STUDY, DIVERGENCE, w.model, w.task)] if STUDY.divergence_windows else []
# The texts on which a run's mask was calibrated, or its decoder layers reconstructed.
seen_texts = lambda w: targets.seen_texts(STUDY, w)


# Evaluate the merged model on the task's validation examples and on the probes, after it passed the validation of its
# sparsity.
rule evaluate_run:
    input:
        f"{PATHS.run}/validation_report.json",
        rows_of,
        lambda w: targets.probe_files(STUDY, w.task),
        [grid.WIKITEXT2, f"{grid.WIKITEXT2}.json"] if STUDY.perplexity else [],
        lambda w: [f"{text}.json" for text in held_out(w)],
        checkpoint=f"{PATHS.run}/model_dir",
        divergence=held_out,
        dense=lambda w: original_of(w) if STUDY.divergence_windows else [],
        # They are searched for the evaluated examples.
        calibration=seen_texts,
    output:
        f"{PATHS.run}/evaluation.json",
    log:
        f"{PATHS.logs}/evaluate_run/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/evaluate_run/{grid.RUN_ID}.tsv"
    # An evaluation runs before the next merge, so that few merged models are on the disk.
    priority: 2
    conda:
        ENVIRONMENT
    threads: threads_of(evaluate)
    resources:
        mem_mb=memory_of(evaluate),
        runtime=minutes_of(evaluate),
        gpu=gpus_of(evaluate),
    params:
        settings=settings_of(evaluate, has_probes=True),
        version=version_of(evaluate, has_probes=True),
        data_dir=folder_of_rows,
        optional=lambda w, input: flags(divergence=input.divergence, dense=input.dense, calibration=input.calibration),
    shell:
        f"{PYTHON} {SCRIPTS}/evaluate.py"
        " --checkpoint {input.checkpoint:q} --data_dir {params.data_dir:q} {params.optional}"
        " --output {output:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Evaluate the merged model of a training with a name on the selection rows, by which the tables choose among them.
rule evaluate_selection:
    input:
        f"{PATHS.run}/validation_report.json",
        rows_of,
        lambda w: [f"{STUDY.data_folder(w.task, w.model)}/selection{end}" for end in (".jsonl", "_manifest.json")],
        checkpoint=f"{PATHS.run}/model_dir",
        calibration=seen_texts,
    output:
        f"{grid.of_modes(PATHS.run, grid.TRAINED_MODES)}/{{split,selection}}.json",
    log:
        f"{PATHS.logs}/evaluate_{{split}}/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/evaluate_{{split}}/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        training=f"-{grid.TRAINING}",
    priority: 2
    conda:
        ENVIRONMENT
    threads: threads_of(evaluate)
    resources:
        mem_mb=memory_of(evaluate),
        runtime=minutes_of(evaluate),
        gpu=gpus_of(evaluate),
    params:
        settings=settings_of(evaluate),
        version=version_of(evaluate),
        data_dir=folder_of_rows,
        optional=lambda w, input: flags(calibration=input.calibration),
    shell:
        f"{PYTHON} {SCRIPTS}/evaluate.py"
        " --checkpoint {input.checkpoint:q} --data_dir {params.data_dir:q} {params.optional}"
        " --output {output:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Evaluate the model before the merge, on the same examples, for the train-merge gap.
rule evaluate_adapter:
    input:
        rows_of,
        checkpoint=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        f"{grid.of_modes(PATHS.run, grid.TRAINED_MODES)}/before_merge.json",
    log:
        f"{PATHS.logs}/evaluate_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/evaluate_adapter/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(evaluate)
    resources:
        mem_mb=memory_of(evaluate),
        runtime=minutes_of(evaluate),
        gpu=gpus_of(evaluate),
    params:
        settings=settings_of(evaluate),
        version=version_of(evaluate),
        data_dir=folder_of_rows,
    shell:
        f"{PYTHON} {SCRIPTS}/evaluate.py"
        " --checkpoint {input.checkpoint:q} --mask_path {input.mask_path:q} --adapter {input.adapter:q}"
        " --data_dir {params.data_dir:q} --output {output:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"
