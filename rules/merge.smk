from sparseft.stages import merge, validate_sparsity

MERGED = directory(f"{PATHS.run}/model_dir")


# Merge what was trained into its pruned base: W' = (W + alpha/r B A) * M. Without fine-tuning: W' = W * M.
rule merge_adapter:
    input:
        model_path=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        output_dir=MERGED if STUDY.keep_merged else temp(MERGED),
        report=f"{PATHS.run}/merge.json",
    log:
        f"{PATHS.logs}/merge_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/merge_adapter/{grid.RUN_ID}.tsv"
    # A finished training is merged before another one starts.
    priority: 1
    conda:
        ENVIRONMENT
    threads: threads_of(merge)
    resources:
        mem_mb=memory_of(merge),
        runtime=minutes_of(merge),
        gpu=gpus_of(merge),
        # A cluster's profile limits them, because a group of jobs holds this until its evaluation ends.
        merged_models=1,
    params:
        settings=settings_of(merge),
        version=version_of(merge),
        optional=lambda w, input: flags(adapter=input.adapter),
    shell:
        f"{PYTHON} {SCRIPTS}/merge.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} {params.optional}"
        " --output_dir {output.output_dir:q} --report {output.report:q} {params.settings} > {log:q} 2>&1"


# A merged model for a user who asks for it. No other job reads it, so it stays, and no other job runs again.
rule merge_to_keep:
    input:
        model_path=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        output_dir=directory(f"{PATHS.run}/merged"),
        report=f"{PATHS.run}/merged.json",
    log:
        f"{PATHS.logs}/merge_to_keep/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/merge_to_keep/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(merge)
    resources:
        mem_mb=memory_of(merge),
        runtime=minutes_of(merge),
        gpu=gpus_of(merge),
    params:
        settings=settings_of(merge),
        version=version_of(merge),
        optional=lambda w, input: flags(adapter=input.adapter),
    shell:
        f"{PYTHON} {SCRIPTS}/merge.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} {params.optional}"
        " --output_dir {output.output_dir:q} --report {output.report:q} {params.settings} > {log:q} 2>&1"


# Compare every weight with its mask. A failed proof (exit code 1) is a result.
rule validate_sparsity:
    input:
        base=base_of,
        mask_path=mask_of,
        checkpoint=f"{PATHS.run}/model_dir",
    output:
        f"{PATHS.run}/validation_report.json",
    log:
        f"{PATHS.logs}/validate_sparsity/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/validate_sparsity/{grid.RUN_ID}.tsv"
    # This runs first, because a merged model is large and stays on the disk until it is validated.
    priority: 3
    conda:
        ENVIRONMENT
    threads: threads_of(validate_sparsity)
    resources:
        mem_mb=memory_of(validate_sparsity),
        runtime=minutes_of(validate_sparsity),
        gpu=gpus_of(validate_sparsity),
    params:
        settings=settings_of(validate_sparsity),
        version=version_of(validate_sparsity),
    shell:
        f"{PYTHON} {SCRIPTS}/validate_sparsity.py"
        " --checkpoint {input.checkpoint:q} --mask_path {input.mask_path:q} --base {input.base:q}"
        " --output {output:q} {params.settings} > {log:q} 2>&1 || [ $? -eq 1 ]"
