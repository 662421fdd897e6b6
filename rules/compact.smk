# The model of a structured run with its pruned channels and heads left out. Optional, made where it is asked for:
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/compact
rule compact_run:
    input:
        mask=mask_of,
        model=f"{grid.RUN}/model_dir",
    output:
        model=directory(f"{grid.RUN}/compact"),
    log:
        f"results/logs/compact_run/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/compact_run/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        method="|".join(method for method in grid.METHODS if method.startswith("structured")),
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=memory("files"),  # one tensor, and what stays of it
        runtime=minutes("files"),
    params:
        code=code("compact.py"),
        run_id=grid.RUN_ID,
    message:
        "compact {params.run_id}"
    shell:
        'python "$SCRIPTS/compact.py"'
        " --checkpoint {input.model:q}"
        " --mask_path {input.mask:q}"
        " --output_dir {output.model:q}"
        " 2> {log:q}"
