# Training on a Cerebras CS-3, in the place of train.smk: a job a compiled program, a job a run.
import re

PROGRAMS = targets.measured_programs(STUDY) | targets.programs(
    STUDY
)  # a program of both is compiled with its evaluation
MEASURING = flags(warmup_steps=STUDY.throughput.warmup_steps)
MEASURING += " --fill_sequences" if STUDY.throughput.sequence_length else ""


def compiled(program):
    """What a job that runs a program waits for; as ancient, a program that is compiled again runs nothing again."""
    name = targets.program_name(STUDY, program)
    return [ancient(f"{grid.PROGRAM.format(program=name)}/compile.json")] if PROGRAMS else []


def deciding(program):
    """The flags that decide a program and its numbers."""
    return flags(**program.settings.model_dump(), **DECIDING | {"sequence_length": program.sequence_length})


def cell_of(w):
    """The run itself or, for a compilation, the first of its program's."""
    return PROGRAMS[w.program].run if "program" in w.keys() else w


# One job a run. What the appliance is asked for decides no number: it is not in params, and a change reruns nothing.
rule train_adapter:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        compiled=lambda w: compiled(targets.training_program(STUDY, grid.Run.parse(grid.RUN_ID.format(**w)))),
    output:
        adapter=directory(f"{grid.RUN}/adapter"),
        record=f"{grid.RUN}/train.json",
    log:
        f"results/logs/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/train_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    priority: 4  # the wafer waits for nothing
    retries: 2  # what cannot succeed fails at once, see sparseft.backends.appliance
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        mem_mb=memory("training", cell_of),  # weights, masks, the traced program
        runtime=minutes("training", cell_of),
        csx=int(ON_WAFER),  # the appliance, whose queue is other people's too
        slurm_extra="--licenses=csx:1" if ON_WAFER else "",  # and between several Snakemakes, under Slurm
        attempt=lambda w, attempt: attempt,
        lock=flags(lock=STUDY.cerebras.lock if ON_WAFER else None),
        labels=flags(job_labels=STUDY.cerebras.job_labels),
        asked=flags(**ASKED),
    params:
        script="train_cerebras.py",
        code=code("train_cerebras.py"),
        run_id=grid.RUN_ID,
        cores=STUDY.resources.threads,  # another number, other last bits
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        folder=subpath(output.record, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        settings=lambda w: deciding(targets.training_program(STUDY, grid.Run.parse(grid.RUN_ID.format(**w)))),
        only="",
    message:
        "train {params.run_id}"
    shell:
        'python "$SCRIPTS/run_on_appliance.py"'
        " --name {params.run_id:q}"
        " --log {log:q}"
        " --attempt {resources.attempt}"
        " {resources.lock}"
        " {resources.labels}"
        ' -- "$CEREBRAS_PYTHON" "$SCRIPTS"/{params.script}'
        " --run_id {params.run_id:q}"
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " --data_dir {params.data:q}"
        " --threads {params.cores}"
        " --evaluation_batch_size {params.batch_size}"
        " {params.settings}"
        " {resources.asked}"
        " {params.only}"
        " --output_dir {params.folder:q}"
        " 2> {log:q}"


# The compilation of a program, once for all runs that share it: of the first of them.
use rule train_adapter as compile_program with:
    input:
        manifest=lambda w: grid.fill(grid.MANIFEST, PROGRAMS[w.program].run),
        mask=lambda w: grid.fill(grid.mask_path(PROGRAMS[w.program].run.method), PROGRAMS[w.program].run),
        train=lambda w: grid.fill(f"{grid.DATA}/train.jsonl", PROGRAMS[w.program].run),
        validation=lambda w: grid.fill(f"{grid.DATA}/validation.jsonl", PROGRAMS[w.program].run),
    output:
        record=f"{grid.PROGRAM}/compile.json",
    log:
        "results/logs/compile_program/{program}.log",
    benchmark:
        "results/benchmarks/compile_program/{program}.tsv"
    wildcard_constraints:
        program="|".join(map(re.escape, PROGRAMS)),
    params:
        script=lambda w: "measure_cerebras.py" if PROGRAMS[w.program].measured else "train_cerebras.py",
        code=code("train_cerebras.py"),
        run_id=lambda w: PROGRAMS[w.program].run.id,
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        folder=subpath(output.record, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        settings=lambda w: deciding(PROGRAMS[w.program]),
        only=lambda w: f"--compile_only {MEASURING if PROGRAMS[w.program].measured else ''}",
    message:
        "compile {wildcards.program}"
