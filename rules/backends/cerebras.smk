# Training and measurement with cerebras-pytorch: one job per run, and per repeat of a measurement.
from shlex import quote

from sparseft.stages import join_measurements, measure_cerebras, train_cerebras


include: "appliance.smk"


CEREBRAS = quote(str(ROOT / STUDY.cerebras.python))


# Train the adapter of one run.
rule train_adapter:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
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
    threads: threads_of(train_cerebras)
    resources:
        mem_mb=memory_of(train_cerebras),
        runtime=minutes_of(train_cerebras),
        gpu=0,
        csx=CSX,
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra=LICENCE,
    params:
        settings=settings_of(train_cerebras),
        version=version_of(train_cerebras),
        effort=effort_of(train_cerebras),
        name=name_of,
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/run_on_appliance.py --name {{params.name}} --log /dev/stderr {TURN}"
        f" -- {CEREBRAS} {SCRIPTS}/train_cerebras.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --output_dir {params.folder:q} {params.settings} {params.effort} --gpus 0 > {log:q} 2>&1"


# Train the kept weights of one run themselves.
rule train_weights:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
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
    threads: threads_of(train_cerebras)
    resources:
        mem_mb=memory_of(train_cerebras),
        runtime=minutes_of(train_cerebras),
        gpu=0,
        csx=CSX,
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra=LICENCE,
    params:
        settings=settings_of(train_cerebras),
        version=version_of(train_cerebras),
        effort=effort_of(train_cerebras),
        name=name_of,
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/run_on_appliance.py --name {{params.name}} --log /dev/stderr {TURN}"
        f" -- {CEREBRAS} {SCRIPTS}/train_cerebras.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --output_dir {params.folder:q} {params.settings} {params.effort} --gpus 0 > {log:q} 2>&1"


# Measure one repeat of one batch size. Only `snakemake throughput --profile profiles/cs3` asks for it.
rule measure_batch:
    input:
        trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        f"{grid.of_modes(PATHS.batch, grid.LORA_MODES + grid.FULL_MODES)}/measurement.json",
    log:
        f"{PATHS.logs}/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.log",
    benchmark:
        f"{PATHS.benchmarks}/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.tsv"
    priority: 4
    retries: 0
    conda:
        ENVIRONMENT
    threads: (not QUEUED and not CSX and workflow.resource_settings.cores) or STUDY.resources.threads
    resources:
        mem_mb=memory_of(measure_cerebras),
        runtime=minutes_of(measure_cerebras),
        gpu=0,
        csx=CSX,
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra=LICENCE,
    params:
        settings=settings_of(measure_cerebras),
        version=version_of(measure_cerebras),
        effort=effort_of(measure_cerebras),
        data_dir=folder_of_rows,
        folder=folder_of,
        name=name_of,
    shell:
        f"{PYTHON} {SCRIPTS}/run_on_appliance.py --name {{params.name}} --log /dev/stderr {TURN}"
        f" -- {CEREBRAS} {SCRIPTS}/measure_cerebras.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --output_dir {params.folder:q} {params.settings} {params.effort} --gpus 0 > {log:q} 2>&1"


# Join the repeats of a cell into the file that the analysis reads.
rule join_measurements:
    input:
        records=expand(
            f"{PATHS.batch}/measurement.json",
            batch_size=STUDY.throughput.batch_sizes,
            seed=range(STUDY.throughput.repeats),
            allow_missing=True,
        ),
    output:
        grid.of_modes(PATHS.throughput, grid.LORA_MODES + grid.FULL_MODES),
    log:
        f"{PATHS.logs}/join_measurements/{grid.CELL_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/join_measurements/{grid.CELL_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(join_measurements)
    resources:
        mem_mb=memory_of(join_measurements),
        runtime=minutes_of(join_measurements),
        gpu=gpus_of(join_measurements),
    params:
        version=version_of(join_measurements),
    shell:
        f"{PYTHON} {SCRIPTS}/join_measurements.py" " --records {input.records:q} --output {output:q} > {log:q} 2>&1"
