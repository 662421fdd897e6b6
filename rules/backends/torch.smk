# Training and measurement with torch, on the CPU or the GPUs of this machine.
from sparseft.study.flags import launch


include: "training.smk"


# Train LoRA on the pruned weights of one run. Every backend ends in the same adapter file.
rule train_adapter:
    input:
        **RUN_INPUT,
        manifest=base_of,
        initial=with_signature(lambda w: PATHS.initial_adapter(w.mode) or []),
    output:
        **RUN_OUTPUT,
    log:
        f"<logs>/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/train_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TASK_MODES),
    conda:
        "../../envs/sparseft.yaml"
    threads: STUDY.resources.threads * STUDY.resources.processes
    resources:
        mem_mb=memory("training"),
        runtime=minutes("training"),
        gpu=STUDY.resources.gpus,
    params:
        **RUN_PARAMS,
        code=code("train.py"),
        script="train.py",
        launch=launch(STUDY.resources.processes),
        inputs=with_signature(lambda w, input: flags(initial_adapter=input.initial or None)),
        settings=with_signature(lambda w: training_flags(w.mode, w.task, w.training)),
    message:
        "train {params.run_id}"
    shell:
        f'on_gpus {{resources.gpu}} python {{params.launch:q}} "$SCRIPTS/"{{params.script}} {{params.inputs}}{RUN_FLAGS}'


# Train the adapter of one run to give the outputs of the dense decoder layers, one decoder layer after the other.
use rule train_adapter as reconstruct_adapter with:
    input:
        **RUN_INPUT,
        manifest=base_of,
        dense=grid.MANIFEST,
        text=targets.reconstruction_text(STUDY),
    log:
        f"<logs>/reconstruct_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/reconstruct_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.RECONSTRUCTING_MODES),
    threads: STUDY.resources.threads
    resources:
        # The weights, the inputs and the outputs of one decoder layer for all examples, and the training of that layer.
        mem_mb=memory("reconstruction"),
        runtime=minutes("reconstruction"),
        gpu=ONE_GPU,
    params:
        code=code("reconstruct.py"),
        script="reconstruct.py",
        launch=[],
        # A param that reads `input` would rerun nothing.
        inputs=lambda w: flags(
            dense_path=Path(grid.MANIFEST.format(model=w.model)).parent,
            text=targets.reconstruction_text(STUDY),
            **STUDY.reconstruction_examples(),
        ),
    message:
        "reconstruct {params.run_id}"


# Measure speed and memory against the batch size for one cell. Only the target `throughput` needs it.
rule measure_throughput:
    input:
        manifest=base_of,
        mask=mask_of,
        train=f"{grid.DATA}/train.jsonl",
    output:
        record=PATHS.throughput,
    log:
        f"<logs>/measure_throughput/{grid.CELL_ID}.log",
    benchmark:
        f"<benchmarks>/measure_throughput/{grid.CELL_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TASK_MODES),
    conda:
        "../../envs/sparseft.yaml"
    # A measurement takes all cores of this machine, so that no other job runs at the same time.
    threads: (not QUEUED and workflow.resource_settings.cores) or STUDY.resources.threads
    resources:
        # On a CPU, memory_mb is the limit of the measuring process. Two other processes need 1000 MB more.
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
            **STUDY.training_of(w.task, grid.training_name(w.training)).model_dump(exclude=STUDY.throughput.DECIDED),
            **STUDY.throughput.model_dump(exclude={*STUDY.throughput.AXES}),
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
