# Training and measurement with cerebras-pytorch: one job per run, and per repeat of a measurement.
from shlex import quote

PYTHON = quote(str(ROOT / STUDY.cerebras.python))
TRAINER = running("train_cerebras.py", kind="training")
BESIDE = {}


include: "appliance.smk"


def measured_settings(w):
    """Return the flags of a measurement that decide its numbers."""
    measured = STUDY.throughput
    settings = measured.schedule(training_of(w), int(w.batch_size)).model_dump(exclude=Training.unused_in(w.mode))
    settings |= STUDY.cerebras.deciding | {"warmup_steps": measured.warmup_steps}
    if measured.sequence_length:
        settings |= {"sequence_length": measured.sequence_length, "fill_sequences": True}
    return f"{job_flags.of_training(STUDY, cell_of(w), True)} {flags(**settings)}"


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
        **running("measure_cerebras.py", kind="throughput"),
        settings=measured_settings,
        others=lambda w, input: OTHER_FLAGS,


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
