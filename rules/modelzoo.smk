# Training by ModelZoo's own Trainer, in the place of train.smk: a masked checkpoint a mask, a job a run.


# The masked model in ModelZoo's names and coordinates; deleted after the last training that begins with it.
rule export_checkpoint:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
    output:
        folder=temp(directory(grid.exported(grid.DENSE))),
    log:
        "results/logs/export_checkpoint/{model}_sparsity{sparsity}_{method}.log",
    benchmark:
        "results/benchmarks/export_checkpoint/{model}_sparsity{sparsity}_{method}.tsv"
    wildcard_constraints:
        method="|".join((grid.DENSE, *grid.WEIGHT_METHODS)),
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=lambda w, attempt: 1000 * attempt,  # a block of rows, whatever the model; measured
        runtime=minutes("files"),
    params:
        code=code("export_modelzoo.py"),
        model=subpath(input.manifest, parent=True),
    message:
        "export {wildcards.model}, {wildcards.method}, {wildcards.sparsity} %"
    shell:
        'python "$SCRIPTS/export_modelzoo.py"'
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " --output_dir {output.folder:q}"
        " 2> {log:q}"


# The same of a mask that looks at a task's examples.
use rule export_checkpoint as export_task_checkpoint with:
    output:
        folder=temp(directory(grid.exported(grid.TASK_METHODS[0]))),
    log:
        "results/logs/export_checkpoint/{model}_{task}_sparsity{sparsity}_{method}.log",
    benchmark:
        "results/benchmarks/export_checkpoint/{model}_{task}_sparsity{sparsity}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.TASK_METHODS),


# One job a run. What the appliance is asked for decides no number: it is not in params, and a change reruns nothing.
rule train_adapter:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        exported=lambda w: grid.exported(w.method),
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
    priority: 4  # the wafer waits for nothing
    retries: 2  # what cannot succeed fails at once, see sparseft.backends.appliance
    conda:
        "../envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        mem_mb=memory("training"),  # weights, masks, the traced program
        runtime=minutes("training"),
        csx=int(ON_WAFER),  # the appliance, whose queue is other people's too
        slurm_extra="--licenses=csx:1" if ON_WAFER else "",  # and between several Snakemakes, under Slurm
        attempt=lambda w, attempt: attempt,
        lock=flags(lock=STUDY.cerebras.lock if ON_WAFER else None),
        labels=flags(job_labels=STUDY.cerebras.job_labels),
        asked=flags(**ASKED),
    params:
        code=code("train_modelzoo.py") + code("run_modelzoo.py"),
        run_id=grid.RUN_ID,
        cores=STUDY.resources.threads,  # another number, other last bits
        model=subpath(input.manifest, parent=True),
        data=subpath(input.train, parent=True),
        folder=subpath(output.record, parent=True),
        batch_size=STUDY.evaluation_batch_size,
        settings=lambda w: f"{training_flags(w.task)} {flags(**DECIDING)}",
    message:
        "train {params.run_id}"
    shell:
        'python "$SCRIPTS/run_on_appliance.py"'
        " --name {params.run_id:q}"
        " --log {log:q}"
        " --attempt {resources.attempt}"
        " {resources.lock}"
        " {resources.labels}"
        ' -- python "$SCRIPTS/train_modelzoo.py"'
        " --run_id {params.run_id:q}"
        " --model_path {params.model:q}"
        " --mask_path {input.mask:q}"
        " --exported {input.exported:q}"
        " --data_dir {params.data:q}"
        " --threads {params.cores}"
        " --evaluation_batch_size {params.batch_size}"
        " {params.settings}"
        " {resources.asked}"
        " --output_dir {params.folder:q}"
        " 2> {log:q}"
