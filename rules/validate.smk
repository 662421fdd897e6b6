# Compare every weight with its mask. A failed proof (exit code 1) is a result: the report stays, and the memo begins with it.
rule validate_sparsity:
    input:
        manifest=base_of,
        mask=mask_of,
        model=f"{PATHS.run}/model_dir",
    output:
        report=f"{PATHS.run}/validation_report.json",
    log:
        f"<logs>/validate_sparsity/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/validate_sparsity/{grid.RUN_ID}.tsv"
    # This runs first, because a merged model is large and stays on the disk until it is validated.
    priority: 3
    conda:
        "../envs/sparseft.yaml"
    resources:
        # A block of a matrix and its mask.
        **requested("files"),
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
