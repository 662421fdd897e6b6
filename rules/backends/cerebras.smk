# Training and measurement with cerebras-pytorch: one job per run, and per repeat of a measurement.
from shlex import quote

PYTHON = quote(str(ROOT / STUDY.cerebras.python))
BESIDE = {}


include: "appliance.smk"


TRAINING = running("train_cerebras", command=on_csx)


include: "training.smk"


# Measure one repeat of one batch size. Only `snakemake throughput --profile profiles/cs3` asks for it.
use rule run_script as measure_batch with:
    input:
        data_dir=trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        output_dir=f"{grid.of_modes(PATHS.batch, grid.LORA_MODES + grid.FULL_MODES)}/measurement.json",
    pathvars:
        job=f"measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}",
    priority: PRIORITY
    retries: RETRIES
    threads: (not QUEUED and not STUDY.cerebras.on_csx and workflow.resource_settings.cores) or STUDY.resources.threads
    resources:
        **requested | ON_APPLIANCE,
    params:
        **running("measure_cerebras", command=on_csx),


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
        output=grid.of_modes(PATHS.throughput, grid.LORA_MODES + grid.FULL_MODES),
    pathvars:
        job=f"join_measurements/{grid.CELL_ID}",
    params:
        **running("join_measurements"),
