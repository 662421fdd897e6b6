# One job a run: LoRA on the pruned weights; its product is the adapter, whatever the hardware.
rule train_adapter:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
    output:
        adapter=directory(f"{grid.RUN}/adapter"),
        record=f"{grid.RUN}/train.json",
    log:
        f"results/logs/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/train_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.TRAINED_MODES),
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads * STUDY.resources.processes
    resources:
        mem_mb=memory("training"),  # weights, masks, activations of a micro-batch
        runtime=minutes("training"),
        gpu=STUDY.resources.gpus,
    params:
        code=code("train.py"),
        run_id=grid.RUN_ID,
        cores=STUDY.resources.threads,  # another number, other last bits
        launch=launch(STUDY.resources.processes),
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        folder=subpath(output.record, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        settings=lambda w: training_flags(w.task),
    message:
        "train {params.run_id}"
    shell:
        "on_gpus {resources.gpu} "
        'python {params.launch:q} "$SCRIPTS/train.py"'
        " --run_id {params.run_id:q}"
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " --data_dir {params.data:q}"
        " --threads {params.cores}"
        " --evaluation_batch_size {params.batch_size}"
        " {params.settings}"
        " --output_dir {params.folder:q}"
        " 2> {log:q}"
