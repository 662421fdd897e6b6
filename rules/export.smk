# What no study needs. Ask for it by name:
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/export/manifest.json
#   snakemake results/runs/smollm2-boolq_mini-structured-sparsity50-sparse_to_sparse-seed0/engines.json
from sparseft.stages import check_engines, export_run


# Write a run as a folder that can be given away: smaller if its mask allows it, with a model card.
rule export_run:
    input:
        lambda w: [] if w.mode == grid.NO_FINETUNE else f"{PATHS.run}/train.json",
        f"{PATHS.run}/validation_report.json",
        f"{PATHS.run}/evaluation.json",
        model_path=grid.MANIFEST,
        mask_path=mask_of,
        checkpoint=f"{PATHS.run}/model_dir",
    output:
        update(f"{PATHS.run}/export/manifest.json"),
    log:
        f"{PATHS.logs}/export_run/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/export_run/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(export_run)
    resources:
        mem_mb=memory_of(export_run),
        runtime=minutes_of(export_run),
        gpu=gpus_of(export_run),
    params:
        settings=settings_of(export_run),
        version=version_of(export_run),
        effort=effort_of(export_run),
    shell:
        f"{PYTHON} {SCRIPTS}/export_run.py"
        " --checkpoint {input.checkpoint:q} --model_path {input.model_path:q} --mask_path {input.mask_path:q}"
        " --output_dir {output:q} {params.settings} {params.effort} > {log:q} 2>&1"


# Compare and measure the engines on the exported run and on its dense model. A difference (exit code 1) is a result.
rule check_engines:
    input:
        rows_of,
        # If the model was made from a pruned base, the run is compared with the model that was pruned first.
        model_path=original_of,
        export_dir=f"{PATHS.run}/export/manifest.json",
    output:
        f"{PATHS.run}/engines.json",
    log:
        f"{PATHS.logs}/check_engines/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/check_engines/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(check_engines)
    resources:
        mem_mb=memory_of(check_engines),
        runtime=minutes_of(check_engines),
        gpu=gpus_of(check_engines),
    params:
        settings=settings_of(check_engines),
        version=version_of(check_engines),
        effort=effort_of(check_engines),
        data_dir=folder_of_rows,
        gpus=STUDY.resources.gpus,  # Another device measures again.
    shell:
        f"{PYTHON} {SCRIPTS}/check_engines.py"
        " --export_dir {input.export_dir:q} --model_path {input.model_path:q} --data_dir {params.data_dir:q}"
        " --output {output:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1 || [ $? -eq 1 ]"
