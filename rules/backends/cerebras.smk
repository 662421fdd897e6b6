# Training and measurement with cerebras-pytorch: one job per compiled program, per run, and per repeat of a
# measurement.
import re

# A program of both kinds is compiled with its evaluation.
PROGRAMS = targets.programs(STUDY, measured=True) | targets.programs(STUDY)
# For the shell commands. It is not in params, because another place of the same package must rerun nothing.
os.environ["CEREBRAS_PYTHON"] = str(ROOT / STUDY.cerebras.python)


def program_of(w):
    """Return the program of a job: the one that it compiles, or that of its measurement or training."""
    if w.get("program"):
        return PROGRAMS[w.program]
    run = grid.Run.parse(grid.RUN_ID.format(**w))
    return targets.program_of(STUDY, run, int(w.batch_size) if w.get("batch_size") else None)


def run_of(w):
    """Return the run of a job; for a compilation the first run that needs the program."""
    return program_of(w).run


def saving_flags_of(w):
    """Return the flags of a job's training that change no bit."""
    return flags(**program_of(w).settings.model_dump(include=Training.keys_of(Role.SAVING)))


def compiled(w):
    """Return the record of the compilation of a job's program.

    It is ancient, so that another compilation trains nothing again."""
    name = targets.program_name(STUDY, program_of(w))
    return [ancient(f"{PATHS.program.format(program=name)}/compile.json")] if PROGRAMS else []


def program_script(w):
    """Return the command of a job's script, in the environment that has cerebras-pytorch."""
    return f'"$CEREBRAS_PYTHON" "$SCRIPTS"/{"measure" if program_of(w).measured else "train"}_cerebras.py'


def program_settings(w):
    """Return the flags that decide a program and its numbers."""
    program = program_of(w)
    settings = program.settings.model_dump(exclude=Training.keys_of(Role.SAVING))
    settings |= STUDY.cerebras.deciding | {"sequence_length": program.sequence_length}
    if program.measured:
        settings["warmup_steps"] = STUDY.throughput.warmup_steps
        settings["fill_sequences"] = bool(STUDY.throughput.sequence_length)
    return f"{job_flags(program.run.id)} {flags(**settings)}{' --compile_only' if w.get('program') else ''}"


include: "appliance.smk"


use rule run_on_appliance as train_adapter with:
    input:
        compiled,
        data_dir=trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        directory(f"{PATHS.run}/adapter"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.NEW_ADAPTER_MODES),
    params:
        code=code("train_cerebras.py"),
        script=program_script,
        settings=program_settings,


# Compile a program once for all runs that share it.
use rule train_adapter as compile_program with:
    input:
        data_dir=lambda w: [
            *training_rows(run_of(w).task),
            grid.fill(f"{grid.DATA}/validation.jsonl", run_of(w)),
        ],
        model_path=lambda w: grid.fill(grid.MANIFEST, run_of(w)),
        mask_path=lambda w: grid.fill(grid.mask_path(run_of(w).method), run_of(w)),
    output:
        output_dir=f"{PATHS.program}/compile.json",
    pathvars:
        job="compile_program/{program}",
    wildcard_constraints:
        program="|".join(map(re.escape, PROGRAMS)),
    params:
        run_id=lambda w: run_of(w).id,


# Measure one repeat of one batch size. Only `snakemake throughput --profile profiles/cs3` asks for it.
use rule train_adapter as measure_batch with:
    output:
        output_dir=f"{PATHS.batch}/measurement.json",
    pathvars:
        job=f"measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}",
    threads: (not QUEUED and not STUDY.cerebras.on_csx and workflow.resource_settings.cores) or STUDY.resources.threads
    params:
        kind=lambda w: "throughput",
        code=code("measure_cerebras.py"),


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
        mode="|".join(grid.NEW_ADAPTER_MODES),
    params:
        **running("join_measurements.py"),
