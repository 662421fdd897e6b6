# Training and measurement with torch, on the CPU or the GPUs of this machine.

PROCESSES = STUDY.resources.processes
# What starts a training: of one process, or of several.
PYTHON = "python"
if PROCESSES > 1:
    PYTHON = f"python -m sparseft.training.processes --standalone --nproc_per_node={PROCESSES}"
# What the training of a run continues, and the model that teaches it.
continued = lambda w: PATHS.trained(STUDY.start_of(run_of(w)))
schedule_of = lambda w: STUDY.training_of(w.task, grid.training_name(w.training))
teacher_of = lambda w: original_of(w) if schedule_of(w).distillation else []


use rule run_script as train_adapter with:
    input:
        data_dir=trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        directory(f"{PATHS.run}/adapter"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(set(grid.TASK_MODES) - set(grid.FULL_MODES)),
    threads: STUDY.resources.threads * PROCESSES
    params:
        **running("train", kind="training", command=PYTHON),


# Train the kept weights of one run themselves.
use rule run_script as train_weights with:
    input:
        data_dir=trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        directory(f"{PATHS.run}/weights"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_weights/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.FULL_MODES),
    threads: STUDY.resources.threads * PROCESSES
    params:
        **running("train", kind="training", command=PYTHON),


# Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.
use rule run_script as reconstruct_adapter with:
    input:
        data_dir=trained_rows,
        model_path=base_of,
        dense_path=grid.MANIFEST,
        mask_path=mask_of,
        text=lambda w: targets.text_paths(STUDY, [STUDY.reconstruction.calibration], w.model, w.task),
    output:
        directory(f"{PATHS.run}/adapter"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"reconstruct_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.RECONSTRUCTING_MODES),
    threads: STUDY.resources.threads
    params:
        **running("reconstruct", kind="reconstruction"),


# Measure speed and memory against the batch size for one cell. Only the target `throughput` needs it.
use rule run_script as measure_throughput with:
    input:
        model_path=base_of,
        mask_path=mask_of,
        data_dir=lambda w: targets.data_files(STUDY, w.task, w.model, "train"),
    output:
        output=PATHS.throughput,
    pathvars:
        job=f"measure_throughput/{grid.CELL_ID}",
    wildcard_constraints:
        mode="|".join(grid.TASK_MODES),
    # A measurement takes all cores of this machine, so that no other job runs at the same time.
    threads: (not QUEUED and workflow.resource_settings.cores) or STUDY.resources.threads
    # On a CPU, memory_mb is the limit of the measuring process. Two other processes need 1000 MB more.
    resources:
        **requested | ({} if STUDY.resources.gpus else {"mem_mb": STUDY.throughput.memory_mb + 1000}),
        slurm_extra="--exclusive",
    params:
        **running("measure_throughput", kind="throughput"),
