# Merge an adapter into its pruned base: W' = (W + alpha/r B A) * M. Without fine-tuning: W' = W * M.
# The merged model is deleted after its last reader, unless keep_merged is true.
rule merge_adapter:
    input:
        manifest=base_of,
        mask=mask_of,
        adapter=with_signature(lambda w: [] if w.mode == grid.NO_FINETUNE else f"{PATHS.run}/adapter"),
    output:
        model=directory(f"{PATHS.run}/model_dir") if STUDY.keep_merged else temp(directory(f"{PATHS.run}/model_dir")),
        report=f"{PATHS.run}/merge.json",
    log:
        f"<logs>/merge_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/merge_adapter/{grid.RUN_ID}.tsv"
    # A finished training is merged before another one starts.
    priority: 1
    conda:
        "../envs/sparseft.yaml"
    # As many as an evaluation has. With fewer, merges would run ahead of evaluations and fill the disk.
    threads: STUDY.resources.threads
    resources:
        # One weight matrix in fp32.
        mem_mb=memory("files"),
        runtime=minutes("files"),
        # A merge uses no GPU. Asking for one keeps merges from running ahead of evaluations.
        gpu=ONE_GPU,
    params:
        code=code("merge.py"),
        run_id=grid.RUN_ID,
        model=subpath(input.manifest, parent=True),
        adapter=with_signature(lambda w, input: flags(adapter=input.adapter or None)),
    message:
        "merge {params.run_id}"
    shell:
        'python "$SCRIPTS/merge.py"'
        " --run_id {params.run_id:q}"
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " {params.adapter}"
        " --output_dir {output.model:q}"
        " --report {output.report:q}"
        " 2> {log:q}"
