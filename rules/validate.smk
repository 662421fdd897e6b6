# Every weight against its mask. Exit code 1, a failed proof, is a result: the report stays and leads the memo.
rule validate_sparsity:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        model=f"{grid.RUN}/model_dir",
    output:
        report=f"{grid.RUN}/validation_report.json",
    log:
        f"results/logs/validate_sparsity/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/validate_sparsity/{grid.RUN_ID}.tsv"
    priority: 3  # first: a merged model is large, and waits on the disk for this
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=memory("files"),  # a block of a matrix and its mask
        runtime=minutes("files"),
    params:
        code=code("validate_sparsity.py"),
        run_id=grid.RUN_ID,
        base=subpath(input.manifest, parent=True),
    message:
        "validate {params.run_id}"
    shell:
        'python "$SCRIPTS/validate_sparsity.py"'
        " --run_id {params.run_id:q}"
        " --checkpoint {input.model:q}"
        " --mask_path {input.mask:q}"
        " --base {params.base:q}"
        " --output {output.report:q}"
        " 2> {log:q} || [ $? -eq 1 ]"
