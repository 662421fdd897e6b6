# What no study needs. Ask for it by name:
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/export/manifest.json
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/engines.json


# Write a run as a folder that can be given away: smaller if its mask allows it, with a model card.
use rule run_script as export_run with:
    input:
        lambda w: [] if w.mode == grid.NO_FINETUNE else f"{PATHS.run}/train.json",
        f"{PATHS.run}/validation_report.json",
        f"{PATHS.run}/evaluation.json",
        model_path=grid.MANIFEST,
        mask_path=mask_of,
        checkpoint=f"{PATHS.run}/model_dir",
    output:
        output_dir=update(f"{PATHS.run}/export/manifest.json"),
    pathvars:
        job=f"export_run/{grid.RUN_ID}",
    params:
        **running("export_run"),


# Compare and measure the engines on the exported run and on its dense model. A difference (exit code 1) is a result.
use rule run_script as check_engines with:
    input:
        data_dir=rows_of,
        # If the model was made from a pruned base, the run is compared with the model that was pruned first.
        model_path=original_of,
        export_dir=f"{PATHS.run}/export/manifest.json",
    output:
        output=f"{PATHS.run}/engines.json",
    pathvars:
        job=f"check_engines/{grid.RUN_ID}",
    params:
        **running("check_engines"),
        gpus=STUDY.resources.gpus,  # Another device measures again.
