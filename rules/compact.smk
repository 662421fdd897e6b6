from sparseft.methods import METHODS, ON, TEXT_NAME

STRUCTURED = "|".join(name for name, method in METHODS.items() if method.pattern.removes_channels)


# Write the model of a structured run without its pruned channels and heads. No study needs it; ask for it by name:
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/compact
rule compact_run:
    input:
        mask=mask_of,
        model=f"{PATHS.run}/model_dir",
    output:
        model=directory(f"{PATHS.run}/compact"),
    log:
        f"<logs>/compact_run/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/compact_run/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        method=f"(?:{STRUCTURED})(?:{ON}{TEXT_NAME})?",
    conda:
        "../envs/sparseft.yaml"
    resources:
        # One tensor, and what is kept of it.
        mem_mb=memory("files"),
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
