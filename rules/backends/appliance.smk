# What the backends on a Cerebras appliance share. One job uses the appliance at a time.
from sparseft.study.backends.cerebras import CerebrasJob

DECIDING = STUDY.cerebras.model_dump(include=STUDY.cerebras.DECIDING)
# The flags of a job that decide no number. run_on_appliance.py adds the labels.
OTHER_FLAGS = STUDY.cerebras.model_dump(include={*CerebrasJob.model_fields} - {*DECIDING, "job_labels"})
if workflow.is_main_process and not QUEUED and "csx" not in workflow.global_resources:
    workflow.register_resource("csx", 1)

# These are not in params, because they decide no number, and a change must rerun nothing.
APPLIANCE = {
    "csx": int(STUDY.cerebras.on_csx),
    # Under Slurm the licence also counts the jobs of other users.
    "slurm_extra": "--licenses=csx:1" if STUDY.cerebras.on_csx else "",
    "attempt": lambda w, attempt: attempt,
    "lock": flags(lock=STUDY.cerebras.lock if STUDY.cerebras.on_csx else None),
    "labels": flags(job_labels=STUDY.cerebras.job_labels),
    "appliance_flags": flags(**OTHER_FLAGS),
}
# What the scripts of both backends take. Another number of threads changes the last bits.
JOB = {
    "run_id": grid.RUN_ID,
    "cores": STUDY.resources.threads,
    "model": subpath(input.manifest, parent=True),
    "data": subpath(input.train, parent=True),
    "folder": subpath(output.record, parent=True),
    "batch_size": STUDY.evaluation_batch_size,
}
JOB_FLAGS = (
    " --run_id {params.run_id:q}"
    " --model_path {params.model:q}"
    " --mask_path {input.mask:q}"
    " --data_dir {params.data:q}"
    " --threads {params.cores}"
    " --evaluation_batch_size {params.batch_size}"
    " {params.settings}"
    " {resources.appliance_flags}"
    " --output_dir {params.folder:q}"
    " 2> {log:q}"
)
RUN_ON_APPLIANCE = (
    'python "$SCRIPTS/run_on_appliance.py"'
    " --name {params.run_id:q}"
    " --log {log:q}"
    f" --stop {PATHS.stop}"
    " --attempt {resources.attempt}"
    " {resources.lock}"
    " {resources.labels}"
    " -- "
)
