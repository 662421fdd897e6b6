# Compare every weight with its mask. A failed proof (exit code 1) is a result: the report stays, and the memo begins with it.
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
    resources:
        # A block of a matrix and its mask.
        **requested("files"),
    params:
        **running("validate_sparsity.py"),
        settings=flags(run_id=grid.RUN_ID),
        otherwise="|| [ $? -eq 1 ]",
