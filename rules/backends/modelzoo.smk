# Training with Cerebras ModelZoo's Trainer: one masked checkpoint per mask, and one job per run.
from sparseft.stages import export_modelzoo, train_modelzoo


include: "appliance.smk"


# Train the adapter of one run.
rule train_adapter:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        exported=lambda w: grid.exported(w.method),
    output:
        record=f"{grid.of_modes(PATHS.run, grid.LORA_MODES)}/train.json",
        adapter=directory(f"{grid.of_modes(PATHS.run, grid.LORA_MODES)}/adapter"),
    log:
        f"{PATHS.logs}/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/train_adapter/{grid.RUN_ID}.tsv"
    # First, so that the appliance does not wait. run_on_appliance.py itself tries again what another attempt can help.
    priority: 4
    retries: 0
    conda:
        ENVIRONMENT
    threads: threads_of(train_modelzoo)
    resources:
        mem_mb=memory_of(train_modelzoo),
        runtime=minutes_of(train_modelzoo),
        gpu=0,
        csx=CSX,
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra=LICENCE,
    params:
        settings=settings_of(train_modelzoo),
        version=version_of(train_modelzoo),
        effort=effort_of(train_modelzoo),
        name=name_of,
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/run_on_appliance.py --name {{params.name}} --log /dev/stderr {TURN}"
        f" -- {PYTHON} {SCRIPTS}/train_modelzoo.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --exported {input.exported:q}"
        " --output_dir {params.folder:q} {params.settings} {params.effort} --gpus 0 > {log:q} 2>&1"


# Train the kept weights of one run themselves.
rule train_weights:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        exported=lambda w: grid.exported(w.method),
    output:
        record=f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/train.json",
        weights=directory(f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/weights"),
    log:
        f"{PATHS.logs}/train_weights/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/train_weights/{grid.RUN_ID}.tsv"
    priority: 4
    retries: 0
    conda:
        ENVIRONMENT
    threads: threads_of(train_modelzoo)
    resources:
        mem_mb=memory_of(train_modelzoo),
        runtime=minutes_of(train_modelzoo),
        gpu=0,
        csx=CSX,
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra=LICENCE,
    params:
        settings=settings_of(train_modelzoo),
        version=version_of(train_modelzoo),
        effort=effort_of(train_modelzoo),
        name=name_of,
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/run_on_appliance.py --name {{params.name}} --log /dev/stderr {TURN}"
        f" -- {PYTHON} {SCRIPTS}/train_modelzoo.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --exported {input.exported:q}"
        " --output_dir {params.folder:q} {params.settings} {params.effort} --gpus 0 > {log:q} 2>&1"


# Write the masked model in ModelZoo's names and coordinates. It is deleted after the last training that starts from it.
rule export_checkpoint:
    input:
        model_path=grid.MANIFEST,
        mask_path=f"{MASKS}/{grid.MASK_NAME}.pt",
    output:
        temp(directory(f"{grid.EXPORTED}{{task_folder}}/{grid.PRUNED_NAME}")),
    log:
        f"{PATHS.logs}/export_checkpoint/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.log",
    benchmark:
        f"{PATHS.benchmarks}/export_checkpoint/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.tsv"
    wildcard_constraints:
        method=f"{grid.DENSE}|{grid.MASKING_METHOD}",
    conda:
        ENVIRONMENT
    threads: threads_of(export_modelzoo)
    resources:
        mem_mb=memory_of(export_modelzoo),
        runtime=minutes_of(export_modelzoo),
        gpu=gpus_of(export_modelzoo),
    params:
        version=version_of(export_modelzoo),
    shell:
        f"{PYTHON} {SCRIPTS}/export_modelzoo.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --output_dir {output:q} > {log:q} 2>&1"
