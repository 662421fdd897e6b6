# What the backends on a Cerebras appliance share. One job uses the appliance at a time.
DECIDING = STUDY.cerebras.model_dump(include=STUDY.cerebras.DECIDING)
OTHER_FLAGS = STUDY.cerebras.model_dump(exclude={*DECIDING, *STUDY.cerebras.RULES_ONLY, "job_labels"})
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
