# Training and measurement with torch, on the CPU or the GPUs of this machine.

# What starts a training: of one process, or of several.
PYTHON = "python"
if STUDY.resources.processes > 1:
    PYTHON += f" -m sparseft.training.processes --standalone --nproc_per_node={STUDY.resources.processes}"
TRAINING = running("train", command=PYTHON)
ADAPTER_MODES = [mode for mode in grid.TASK_MODES if mode not in grid.FULL_MODES]
BESIDE, ON_APPLIANCE, PRIORITY, RETRIES = {}, {}, 0, None


include: "training.smk"


# Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.
use rule run_script as reconstruct_adapter with:
    input:
        data_dir=trained_rows,
        model_path=base_of,
        dense_path=grid.MANIFEST,
        mask_path=mask_of,
        text=lambda w: targets.text_paths(STUDY, [STUDY.reconstruction.calibration], w.model, w.task),
    output:
        directory(f"{grid.of_modes(PATHS.run, grid.RECONSTRUCTING_MODES)}/adapter"),
        output_dir=f"{grid.of_modes(PATHS.run, grid.RECONSTRUCTING_MODES)}/train.json",
    pathvars:
        job=f"reconstruct_adapter/{grid.RUN_ID}",
    params:
        **running("reconstruct"),


# Measure speed and memory against the batch size for one cell. Only the target `throughput` needs it.
use rule run_script as measure_throughput with:
    input:
        model_path=base_of,
        mask_path=mask_of,
        data_dir=lambda w: targets.data_files(STUDY, w.task, w.model, "train"),
    output:
        output=grid.of_modes(PATHS.throughput, grid.TASK_MODES),
    pathvars:
        job=f"measure_throughput/{grid.CELL_ID}",
    # A measurement takes all cores of this machine, so that no other job runs at the same time.
    threads: (not QUEUED and workflow.resource_settings.cores) or STUDY.resources.threads
    # On a CPU, memory_mb is the limit of the measuring process. Two other processes need 1000 MB more.
    resources:
        **requested | ({} if STUDY.resources.gpus else {"mem_mb": STUDY.throughput.memory_mb + 1000}),
        slurm_extra="--exclusive",
    params:
        **running("measure_throughput"),
        gpus=STUDY.resources.gpus,  # Another device measures again.
