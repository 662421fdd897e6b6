# W' = (W + alpha/r B A) * M; without fine-tuning W' = W * M. The merged model is deleted after its last reader.
rule merge_adapter:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        adapter=lambda w: [] if w.mode == grid.NO_FINETUNE else f"{grid.RUN}/adapter",
    output:
        model=directory(f"{grid.RUN}/model_dir") if STUDY.keep_merged else temp(directory(f"{grid.RUN}/model_dir")),
        report=f"{grid.RUN}/merge.json",
    log:
        f"results/logs/merge_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/merge_adapter/{grid.RUN_ID}.tsv"
    priority: 1  # after training has fed it, before more is trained
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads  # as many as its evaluation, or merges run ahead of it and fill the disk
    resources:
        mem_mb=memory("files"),  # one weight matrix in fp32
        runtime=minutes("files"),
        gpu=ONE_GPU,  # not used: it keeps merges from running ahead of evaluations
    params:
        code=code("merge.py"),
        run_id=grid.RUN_ID,
        model=subpath(input.manifest, parent=True),
        adapter=lambda w, input: flags(adapter=input.adapter or None),
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
