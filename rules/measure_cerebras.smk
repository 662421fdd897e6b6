# The speed of a training on a Cerebras CS-3 against the batch size, in the place of measure.smk: a program a batch size, a job a
# repeat. Optional, made where it is asked for:
#   snakemake throughput --profile profiles/cs3
use rule train_adapter as measure_batch with:
    input:
        manifest=lambda w: manifest_if(STUDY.check_measured, w.task),
        mask=mask_of,
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        compiled=lambda w: compiled(measured(w)),
    output:
        record=f"{grid.BATCH}/measurement.json",
    log:
        f"results/logs/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.log",
    benchmark:
        f"results/benchmarks/measure_batch/{grid.CELL_ID}-batch{{batch_size}}-seed{{seed}}.tsv"
    threads: (not QUEUED and not ON_WAFER and workflow.resource_settings.cores) or STUDY.resources.threads
    params:
        script="measure_cerebras.py",
        code=code("measure_cerebras.py"),
        run_id=grid.RUN_ID,
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        folder=subpath(output.record, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        settings=lambda w: deciding(measured(w)),
        only=MEASURING,
    message:
        "measure {params.run_id}, batch size {wildcards.batch_size}"


# All repeats of a cell, as the file that the analysis reads.
rule join_measurements:
    input:
        records=expand(
            f"{grid.BATCH}/measurement.json",
            batch_size=STUDY.throughput.batch_sizes,
            seed=range(STUDY.throughput.repeats),
            allow_missing=True,
        ),
    output:
        record=grid.THROUGHPUT,
    log:
        f"results/logs/join_measurements/{grid.CELL_ID}.log",
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("join_measurements.py"),
    message:
        "join the measurements of {wildcards.model}, {wildcards.task}, {wildcards.method}, {wildcards.sparsity} %"
    shell:
        'python "$SCRIPTS/join_measurements.py"'
        " --records {input.records:q}"
        " --output {output.record:q}"
        " 2> {log:q}"


def measured(w):
    """The program of a measurement, by its wildcards."""
    run = grid.Run.parse(grid.RUN_ID.format(**w))
    return targets.measured_program(STUDY, run, int(w.batch_size))
