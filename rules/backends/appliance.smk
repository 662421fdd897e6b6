# How jobs take turns on a Cerebras appliance.
# One job at a time uses the appliance.
if workflow.is_main_process and not QUEUED and "csx" not in workflow.global_resources:
    workflow.register_resource("csx", 1)
CSX = int(STUDY.cerebras.on_csx)
LICENCE = "--licenses=csx:1" if CSX else ""
TURN = flags(stop=PATHS.stop, lock=STUDY.cerebras.lock if CSX else None, job_labels=STUDY.cerebras.job_labels)
# The name of a job in messages.
name_of = lambda w: grid.RUN_ID.format(**w)
