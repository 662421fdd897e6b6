# How jobs run on a Cerebras appliance, which one job uses at a time, with the PYTHON of the backend.
TURN = flags(
    log="/dev/stderr",
    stop=PATHS.stop,
    lock=STUDY.cerebras.lock if STUDY.cerebras.on_csx else None,
    job_labels=STUDY.cerebras.job_labels,
)
if workflow.is_main_process and not QUEUED and "csx" not in workflow.global_resources:
    workflow.register_resource("csx", 1)
on_csx = lambda w, input: f'python "$SCRIPTS"/run_on_appliance.py --name {grid.RUN_ID.format(**w)} {TURN} -- {PYTHON}'
ON_APPLIANCE = {
    "gpu": 0,
    "csx": int(STUDY.cerebras.on_csx),
    # Under Slurm the licence also counts the jobs of other users.
    "slurm_extra": "--licenses=csx:1" if STUDY.cerebras.on_csx else "",
}
ADAPTER_MODES = grid.LORA_MODES
# First, so that the appliance does not wait. run_on_appliance.py itself tries again what another attempt can help.
PRIORITY, RETRIES = 4, 0
