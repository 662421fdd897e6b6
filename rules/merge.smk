MERGED = directory(f"{PATHS.run}/model_dir")


# Merge what was trained into its pruned base: W' = (W + alpha/r B A) * M. Without fine-tuning: W' = W * M.
use rule run_script as merge_adapter with:
    input:
        model_path=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        output_dir=MERGED if STUDY.keep_merged else temp(MERGED),
        report=f"{PATHS.run}/merge.json",
    pathvars:
        job=f"merge_adapter/{grid.RUN_ID}",
    # A finished training is merged before another one starts.
    priority: 1
    resources:
        **requested,
        # A cluster's profile limits them, because a group of jobs holds this until its evaluation ends.
        merged_models=1,
    params:
        **running("merge"),


# A merged model for a user who asks for it. No other job reads it, so it stays, and no other job runs again.
use rule run_script as merge_to_keep with:
    input:
        model_path=base_of,
        mask_path=mask_of,
        adapter=trained_of,
    output:
        output_dir=directory(f"{PATHS.run}/merged"),
        report=f"{PATHS.run}/merged.json",
    pathvars:
        job=f"merge_to_keep/{grid.RUN_ID}",
    params:
        **running("merge"),


# Compare every weight with its mask. A failed proof (exit code 1) is a result.
use rule run_script as validate_sparsity with:
    input:
        base=base_of,
        mask_path=mask_of,
        checkpoint=f"{PATHS.run}/model_dir",
    output:
        output=f"{PATHS.run}/validation_report.json",
    pathvars:
        job=f"validate_sparsity/{grid.RUN_ID}",
    # This runs first, because a merged model is large and stays on the disk until it is validated.
    priority: 3
    params:
        **running("validate_sparsity"),
