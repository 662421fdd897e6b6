# Speed and memory of the training against the batch size, a job a cell; optional, made where it is asked for:
#   snakemake throughput
rule measure_throughput:
    input:
        manifest=lambda w: manifest_if(STUDY.check_measured, w.task),
        mask=mask_of,
        train=f"{grid.DATA}/train.jsonl",
    output:
        record=grid.THROUGHPUT,
    log:
        f"results/logs/measure_throughput/{grid.CELL_ID}.log",
    benchmark:
        f"results/benchmarks/measure_throughput/{grid.CELL_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    conda:
        "../envs/sparseft.yaml"
    # nothing runs beside it on this machine
    threads: (not QUEUED and workflow.resource_settings.cores) or STUDY.resources.threads
    resources:
        # a batch that needs more on a CPU is recorded as such; the limit is of its own process, two more come to it
        mem_mb=memory("throughput") if STUDY.resources.gpus else STUDY.throughput.memory_mb + 1000,
        runtime=minutes("throughput"),
        slurm_extra="--exclusive",
        gpu=ONE_GPU,
    params:
        code=code("measure_throughput.py"),
        cell=grid.CELL_ID,
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        settings=lambda w: flags(
            **STUDY.training_of(w.task).model_dump(exclude=STUDY.throughput.DECIDED),
            **STUDY.throughput.model_dump(exclude={"methods", "sparsities", "modes"}),
            threads=STUDY.resources.threads,
        ),
    message:
        "measure the throughput of {params.cell}"
    shell:
        "on_gpus {resources.gpu} "
        'python "$SCRIPTS/measure_throughput.py"'
        " --cell {params.cell:q}"
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " --data_dir {params.data:q}"
        " {params.settings}"
        " --output {output.record:q}"
        " 2> {log:q}"
