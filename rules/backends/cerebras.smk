# Training and measurement with cerebras-pytorch: one job per compiled program, per run, and per repeat of a measurement.
import re

# A program of both kinds is compiled with its evaluation.
PROGRAMS = targets.measured_programs(STUDY) | targets.programs(STUDY)
MEASURING = flags(warmup_steps=STUDY.throughput.warmup_steps)
MEASURING += " --fill_sequences" if STUDY.throughput.sequence_length else ""
# For the shell commands. It is not in params, because another place of the same package must rerun nothing.
os.environ["CEREBRAS_PYTHON"] = str(ROOT / STUDY.cerebras.python)


def run_of(w):
    """Return the run of a job; for a compilation the first run that needs the program."""
    return PROGRAMS[w.program].run if "program" in w.keys() else grid.Run.parse(grid.RUN_ID.format(**w))


def measured_program(w):
    """Return the program of a measurement."""
    return targets.measured_program(STUDY, run_of(w), int(w.batch_size))


def compiled(program):
    """Return the record of a program's compilation. It is ancient, so that another compilation trains nothing again."""
    name = targets.program_name(STUDY, program)
    return [ancient(f"{PATHS.program.format(program=name)}/compile.json")] if PROGRAMS else []


def deciding(program):
    """Return the flags that decide a program and its numbers."""
    return flags(**program.settings.model_dump(), **DECIDING | {"sequence_length": program.sequence_length})


def before_training(w):
    """Return the record of the compilation that a training needs."""
    return compiled(targets.training_program(STUDY, run_of(w)))


def training_settings(w):
    """Return the flags of a training's settings."""
    return deciding(targets.training_program(STUDY, run_of(w)))


def cerebras_program(script):
    """Return the command of a script, in the environment that has cerebras-pytorch."""
    return f'"$CEREBRAS_PYTHON" "$SCRIPTS"/{script}'


TRAINER = cerebras_program("train_cerebras.py")
TRAINING_CODE = code("train_cerebras.py")


include: "appliance.smk"


# Compile a program once for all runs that share it.
use rule train_adapter as compile_program with:
    input:
        manifest=lambda w: grid.fill(grid.MANIFEST, run_of(w)),
        mask=lambda w: grid.fill(grid.mask_path(run_of(w).method), run_of(w)),
        train=lambda w: grid.fill(f"{grid.DATA}/train.jsonl", run_of(w)),
        validation=lambda w: grid.fill(f"{grid.DATA}/validation.jsonl", run_of(w)),
    output:
        record=f"{PATHS.program}/compile.json",
    log:
        "<logs>/compile_program/{program}.log",
    benchmark:
        "<benchmarks>/compile_program/{program}.tsv"
    wildcard_constraints:
        program="|".join(map(re.escape, PROGRAMS)),
    params:
        run_id=lambda w: run_of(w).id,
        script=lambda w: cerebras_program("measure_cerebras.py") if PROGRAMS[w.program].measured else TRAINER,
        settings=lambda w: f"{deciding(PROGRAMS[w.program])} --compile_only {MEASURING if PROGRAMS[w.program].measured else ''}",
    message:
        "compile {wildcards.program}"


# Measure one repeat of one batch size. Only `snakemake throughput --profile profiles/cs3` asks for it.
use rule train_adapter as measure_batch with:
    input:
        **RUN_INPUT,
        manifest=grid.MANIFEST,
        compiled=lambda w: compiled(measured_program(w)),
    output:
        record=f"{PATHS.batch}/measurement.json",
    log:
        f"<logs>/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.log",
    benchmark:
        f"<benchmarks>/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.tsv"
    threads: (not QUEUED and not STUDY.cerebras.on_csx and workflow.resource_settings.cores) or STUDY.resources.threads
    params:
        script=cerebras_program("measure_cerebras.py"),
        code=code("measure_cerebras.py"),
        settings=lambda w: f"{deciding(measured_program(w))} {MEASURING}",
    message:
        "measure {params.run_id}, batch size {wildcards.batch_size}"


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
        record=PATHS.throughput,
    log:
        f"<logs>/join_measurements/{grid.CELL_ID}.log",
    wildcard_constraints:
        mode="|".join(grid.NEW_ADAPTER_MODES),
    conda:
        "../../envs/sparseft.yaml"
    params:
        code=code("join_measurements.py"),
    message:
        "join the measurements of {wildcards.model}, {wildcards.task}, {wildcards.method}, {wildcards.sparsity} %"
    shell:
        'python "$SCRIPTS/join_measurements.py"'
        " --records {input.records:q}"
        " --output {output.record:q}"
        " 2> {log:q}"
