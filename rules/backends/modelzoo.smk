# Training with Cerebras ModelZoo's Trainer: one masked checkpoint per mask, and one job per run.
PYTHON = "python"
BESIDE = {"exported": lambda w: grid.exported(w.method)}


include: "appliance.smk"


TRAINING = running("train_modelzoo", command=on_csx)


include: "training.smk"


# Write the masked model in ModelZoo's names and coordinates. It is deleted after the last training that starts from it.
use rule run_script as export_checkpoint with:
    input:
        model_path=grid.MANIFEST,
        mask_path=f"{MASKS}/{grid.MASK_NAME}.pt",
    output:
        output_dir=temp(directory(f"{grid.EXPORTED}{{task_folder}}/{grid.PRUNED_NAME}")),
    pathvars:
        job="export_checkpoint/{model}{task_folder}/{method}_sparsity{sparsity}",
    wildcard_constraints:
        method=f"{grid.DENSE}|{grid.MASKING_METHOD}",
    params:
        **running("export_modelzoo"),
