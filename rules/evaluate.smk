# The merged model, once checked, on the task's validation examples, by lm-eval.
rule evaluate_run:
    input:
        model=f"{grid.RUN}/model_dir",
        proof=f"{grid.RUN}/validation_report.json",
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
    output:
        record=f"{grid.RUN}/evaluation.json",
    log:
        f"results/logs/evaluate_run/{grid.RUN_ID}.log",
    benchmark:
        f"results/benchmarks/evaluate_run/{grid.RUN_ID}.tsv"
    priority: 2  # before the next merge, so that few merged models lie on the disk
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        mem_mb=STUDY.resources.memory_mb,  # weights, and logits of a batch in fp32
        gpu=STUDY.resources.gpus,
    params:
        code=code("evaluate.py"),
        run_id=grid.RUN_ID,
        cores=STUDY.resources.threads,  # another number, other last bits
        data=subpath(input.train, parent=True),
        batch_size=STUDY.evaluation_batch_size,
    message:
        "evaluate {params.run_id}"
    shell:
        'python "$SCRIPTS/evaluate.py"'
        " --checkpoint {input.model:q}"
        " --task {wildcards.task:q}"
        " --data_dir {params.data:q}"
        " --batch_size {params.batch_size}"
        " --threads {params.cores}"
        " --output {output.record:q}"
        " 2> {log:q}"
