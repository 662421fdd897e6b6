from sparseft.methods import METHODS, ON, TEXT_NAME

STRUCTURED = "|".join(name for name, method in METHODS.items() if method.pattern.removes_channels)


# Write the model of a structured run without its pruned channels and heads. No study needs it; ask for it by name:
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/compact
use rule run_script as compact_run with:
    input:
        mask_path=mask_of,
        checkpoint=f"{PATHS.run}/model_dir",
    output:
        output_dir=directory(f"{PATHS.run}/compact"),
    pathvars:
        job=f"compact_run/{grid.RUN_ID}",
    wildcard_constraints:
        method=f"(?:{STRUCTURED})(?:{ON}{TEXT_NAME})?",
    resources:
        # One tensor, and what is kept of it.
        **requested("files"),
    params:
        **running("compact.py"),
