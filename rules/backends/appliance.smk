# The training of one run on a Cerebras appliance, which one job uses at a time. The file of the backend says before it
# includes this one: the PYTHON that trains, the params of its stage (TRAINER), and what it reads beside the model
# (BESIDE).
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


use rule run_script as train_adapter with:
    input:
        **BESIDE,
        data_dir=trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        directory(f"{PATHS.run}/adapter"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_adapter/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.LORA_MODES),
    # First, so that the appliance does not wait.
    priority: 4
    # run_on_appliance.py itself tries again what another attempt can help.
    retries: 0
    threads: STUDY.resources.threads
    resources:
        **requested | ON_APPLIANCE,
    params:
        **running(TRAINER, kind="training", command=on_csx),


# Train the kept weights of one run themselves.
use rule run_script as train_weights with:
    input:
        **BESIDE,
        data_dir=trained_rows,
        model_path=grid.MANIFEST,
        mask_path=mask_of,
    output:
        directory(f"{PATHS.run}/weights"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_weights/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.FULL_MODES),
    priority: 4
    retries: 0
    threads: STUDY.resources.threads
    resources:
        **requested | ON_APPLIANCE,
    params:
        **running(TRAINER, kind="training", command=on_csx),
