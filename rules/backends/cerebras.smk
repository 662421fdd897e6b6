# Training and measurement with cerebras-pytorch: one job per run, and per repeat of a measurement.

# For the shell commands. It is not in params, because another place of the same package must rerun nothing.
os.environ["CEREBRAS_PYTHON"] = str(ROOT / STUDY.cerebras.python)
PYTHON = '"$CEREBRAS_PYTHON" "$SCRIPTS"/'


def measured_settings(w):
    """Return the flags of a measurement that decide its numbers."""
    training = STUDY.training_of(w.task, grid.training_name(w.training))
    settings = STUDY.throughput.schedule(training, int(w.batch_size)).model_dump(exclude=Training.unused_in(w.mode))
    settings |= STUDY.cerebras.deciding
    settings |= {"warmup_steps": STUDY.throughput.warmup_steps}
    if STUDY.throughput.sequence_length:
        settings |= {"sequence_length": STUDY.throughput.sequence_length, "fill_sequences": True}
    return f"{job_flags(grid.RUN_ID.format(**w))} {flags(**settings)}"


include: "appliance.smk"


use rule run_on_appliance as train_adapter with:
    input:
        data_dir=trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        directory(f"{PATHS.run}/adapter"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.LORA_MODES),
    params:
        code=code("train_cerebras.py"),
        script=PYTHON + "train_cerebras.py",


# Measure one repeat of one batch size. Only `snakemake throughput --profile profiles/cs3` asks for it.
use rule train_adapter as measure_batch with:
    output:
        output_dir=f"{PATHS.batch}/measurement.json",
    pathvars:
        job=f"measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}",
    wildcard_constraints:
        mode="|".join(grid.LORA_MODES + grid.FULL_MODES),
    threads: (not QUEUED and not STUDY.cerebras.on_csx and workflow.resource_settings.cores) or STUDY.resources.threads
    params:
        kind=lambda w: "throughput",
        code=code("measure_cerebras.py"),
        script=PYTHON + "measure_cerebras.py",
        settings=measured_settings,
        places=lambda w, input, output: f"{places(w, input, output)} {OTHER_FLAGS}",


# Join the repeats of a cell into the file that the analysis reads.
use rule run_script as join_measurements with:
    input:
        records=expand(
            f"{PATHS.batch}/measurement.json",
            batch_size=STUDY.throughput.batch_sizes,
            seed=range(STUDY.throughput.repeats),
            allow_missing=True,
        ),
    output:
        output=PATHS.throughput,
    pathvars:
        job=f"join_measurements/{grid.CELL_ID}",
    wildcard_constraints:
        mode="|".join(grid.LORA_MODES + grid.FULL_MODES),
    params:
        **running("join_measurements.py"),
