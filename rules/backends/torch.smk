# Training and measurement with torch, on the CPU or the GPUs of this machine.
from sparseft.stages import measure_throughput, reconstruct, train

ADAPTER_MODES = [mode for mode in grid.TASK_MODES if mode not in grid.FULL_MODES]
# The run whose training this one continues.
continued = lambda w: PATHS.trained(STUDY.start_of(run_of(w)))


# Train the adapter of one run.
rule train_adapter:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        record=f"{grid.of_modes(PATHS.run, ADAPTER_MODES)}/train.json",
        adapter=directory(f"{grid.of_modes(PATHS.run, ADAPTER_MODES)}/adapter"),
    log:
        f"{PATHS.logs}/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/train_adapter/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(train)
    resources:
        mem_mb=memory_of(train),
        runtime=minutes_of(train),
        gpu=gpus_of(train),
    params:
        settings=settings_of(train),
        version=version_of(train),
        effort=effort_of(train),
        processes=STUDY.resources.processes,
        optional=lambda w, input: flags(initial_adapter=input.initial_adapter, dense_path=input.dense_path),
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/train.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " {params.optional} --output_dir {params.folder:q} {params.settings} {params.effort}"
        " --processes {params.processes}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Train the kept weights of one run themselves.
rule train_weights:
    input:
        trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        record=f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/train.json",
        weights=directory(f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/weights"),
    log:
        f"{PATHS.logs}/train_weights/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/train_weights/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(train)
    resources:
        mem_mb=memory_of(train),
        runtime=minutes_of(train),
        gpu=gpus_of(train),
    params:
        settings=settings_of(train),
        version=version_of(train),
        effort=effort_of(train),
        processes=STUDY.resources.processes,
        optional=lambda w, input: flags(initial_adapter=input.initial_adapter, dense_path=input.dense_path),
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/train.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " {params.optional} --output_dir {params.folder:q} {params.settings} {params.effort}"
        " --processes {params.processes}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.
rule reconstruct_adapter:
    input:
        trained_rows,
        model_path=base_of,
        dense_path=grid.MANIFEST,
        mask_path=mask_of,
        text=lambda w: targets.text_paths(STUDY, [STUDY.reconstruction.calibration], w.model, w.task),
    output:
        record=f"{grid.of_modes(PATHS.run, grid.RECONSTRUCTING_MODES)}/train.json",
        adapter=directory(f"{grid.of_modes(PATHS.run, grid.RECONSTRUCTING_MODES)}/adapter"),
    log:
        f"{PATHS.logs}/reconstruct_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/reconstruct_adapter/{grid.RUN_ID}.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(reconstruct)
    resources:
        mem_mb=memory_of(reconstruct),
        runtime=minutes_of(reconstruct),
        gpu=gpus_of(reconstruct),
    params:
        settings=settings_of(reconstruct),
        version=version_of(reconstruct),
        optional=lambda w, input: flags(text=input.text),
        data_dir=folder_of_rows,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/reconstruct.py"
        " --model_path {input.model_path:q} --dense_path {input.dense_path:q} --mask_path {input.mask_path:q}"
        " --data_dir {params.data_dir:q} {params.optional} --output_dir {params.folder:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# Measure speed and memory against the batch size for one cell. Only the target `throughput` needs it.
rule measure_throughput:
    input:
        lambda w: targets.data_files(STUDY, w.task, w.model, "train"),
        model_path=base_of,
        mask_path=mask_of,
    output:
        grid.of_modes(PATHS.throughput, grid.TASK_MODES),
    log:
        f"{PATHS.logs}/measure_throughput/{grid.CELL_ID}.log",
    benchmark:
        f"{PATHS.benchmarks}/measure_throughput/{grid.CELL_ID}.tsv"
    # A measurement takes all cores of this machine, so that no other job runs at the same time.
    conda:
        ENVIRONMENT
    threads: (not QUEUED and workflow.resource_settings.cores) or STUDY.resources.threads
    resources:
        mem_mb=memory_of(measure_throughput) if STUDY.resources.gpus else STUDY.throughput.memory_mb + 1000,
        runtime=minutes_of(measure_throughput),
        gpu=gpus_of(measure_throughput),
        slurm_extra="--exclusive",
    params:
        settings=settings_of(measure_throughput),
        version=version_of(measure_throughput),
        data_dir=folder_of_rows,
        gpus=STUDY.resources.gpus,  # Another device measures again.
    shell:
        f"{PYTHON} {SCRIPTS}/measure_throughput.py"
        " --model_path {input.model_path:q} --mask_path {input.mask_path:q} --data_dir {params.data_dir:q}"
        " --output {output:q} {params.settings}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"
