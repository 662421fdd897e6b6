# What the backends on a Cerebras appliance share. One job uses the appliance at a time. A backend defines before it includes this:
# TRAINER, its command; TRAINING_CODE; before_training(w), its own inputs; training_settings(w), its flags; and run_of(w).
from sparseft.study.backends.cerebras import CerebrasJob


include: "training.smk"


DECIDING = STUDY.cerebras.model_dump(include=STUDY.cerebras.DECIDING)
# The flags of a job that decide no number. run_on_appliance.py adds the labels.
OTHER_FLAGS = STUDY.cerebras.model_dump(include={*CerebrasJob.model_fields} - {*DECIDING, "job_labels"})
if workflow.is_main_process and not QUEUED and "csx" not in workflow.global_resources:
    workflow.register_resource("csx", 1)


# Train one run. What decides no number is in resources, not in params, because a change must rerun nothing.
rule train_adapter:
    input:
        **RUN_INPUT,
        manifest=grid.MANIFEST,
        before=lambda w: before_training(w),
    output:
        **RUN_OUTPUT,
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
        csx=int(STUDY.cerebras.on_csx),
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra="--licenses=csx:1" if STUDY.cerebras.on_csx else "",
        attempt=lambda w, attempt: attempt,
        lock=flags(lock=STUDY.cerebras.lock if STUDY.cerebras.on_csx else None),
        labels=flags(job_labels=STUDY.cerebras.job_labels),
        appliance_flags=flags(**OTHER_FLAGS),
        mem_mb=memory("training", run_of),
        runtime=minutes("training", run_of),
    params:
        **RUN_PARAMS,
        script=TRAINER,
        code=TRAINING_CODE,
        settings=lambda w: training_settings(w),
    message:
        "train {params.run_id}"
    shell:
        'python "$SCRIPTS/run_on_appliance.py"'
        " --name {params.run_id:q}"
        " --log {log:q}"
        f" --stop {PATHS.stop}"
        " --attempt {resources.attempt}"
        " {resources.lock}"
        " {resources.labels}"
        " -- "
        "{params.script} {resources.appliance_flags}" + RUN_FLAGS
