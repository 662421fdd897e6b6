# Training with Cerebras ModelZoo's Trainer: one masked checkpoint per mask, and one job per run.


def run_of(w):
    """Return the wildcards of a training, which name its model and its task."""
    return w


def before_training(w):
    """Return the masked checkpoint from which a training starts."""
    return grid.exported(w.method)


def training_settings(w):
    """Return the flags of a training's settings."""
    exported = flags(exported=grid.exported(w.method).format(**w))
    return f"{exported} {training_flags(w.mode, w.task, w.training)} {flags(**DECIDING)}"


TRAINING_CODE = code("train_modelzoo.py", "run_modelzoo.py")
TRAINER = 'python "$SCRIPTS/train_modelzoo.py"'


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
