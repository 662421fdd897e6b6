# Training with Cerebras ModelZoo's Trainer: one masked checkpoint per mask, and one job per run.


include: "appliance.smk"


# Write the masked model in ModelZoo's names and coordinates. It is deleted after the last training that starts from it.
rule export_checkpoint:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
    output:
        folder=temp(directory(grid.exported(grid.DENSE))),
    log:
        "<logs>/export_checkpoint/{model}_sparsity{sparsity}_{method}.log",
    benchmark:
        "<benchmarks>/export_checkpoint/{model}_sparsity{sparsity}_{method}.tsv"
    wildcard_constraints:
        method="|".join((grid.DENSE, *grid.WEIGHT_METHODS, grid.TEXT_METHOD)),
    conda:
        "../../envs/sparseft.yaml"
    resources:
        # Measured. One block of rows is in memory, so it does not depend on the model's size.
        mem_mb=lambda w, attempt: 1000 * attempt,
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


# The same for the masks that look at a task's examples.
use rule export_checkpoint as export_task_checkpoint with:
    output:
        folder=temp(directory(grid.exported(grid.TASK_METHODS[0]))),
    log:
        "<logs>/export_checkpoint/{model}_{task}_sparsity{sparsity}_{method}.log",
    benchmark:
        "<benchmarks>/export_checkpoint/{model}_{task}_sparsity{sparsity}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.TASK_METHODS),


# Train one run.
rule train_adapter:
    input:
        manifest=grid.MANIFEST,
        mask=mask_of,
        exported=lambda w: grid.exported(w.method),
        train=f"{grid.DATA}/train.jsonl",
        validation=f"{grid.DATA}/validation.jsonl",
        definition=definition_of,
    output:
        adapter=directory(f"{PATHS.run}/adapter"),
        record=f"{PATHS.run}/train.json",
    log:
        f"<logs>/train_adapter/{grid.RUN_ID}.log",
    benchmark:
        f"<benchmarks>/train_adapter/{grid.RUN_ID}.tsv"
    wildcard_constraints:
        mode="|".join(grid.NEW_ADAPTER_MODES),
    # First, so that the appliance does not wait.
    priority: 4
    # run_on_appliance.py fails at once if another attempt cannot help.
    retries: 2
    conda:
        "../../envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        **APPLIANCE,
        mem_mb=memory("training"),
        runtime=minutes("training"),
    params:
        **JOB,
        code=code("train_modelzoo.py", "run_modelzoo.py"),
        settings=lambda w: f"{training_flags(w.mode, w.task, w.training)} {flags(**DECIDING)}",
    message:
        "train {params.run_id}"
    shell:
        RUN_ON_APPLIANCE + 'python "$SCRIPTS/train_modelzoo.py" --exported {input.exported:q}' + JOB_FLAGS
