# Every job on a Cerebras appliance is this one with its own files, as those of jobs.smk. One job uses the appliance at
# a time.
from sparseft.study.backends.cerebras import CerebrasJob

# The flags of a job that decide no number. run_on_appliance.py adds the labels.
OTHER_FLAGS = flags(**STUDY.cerebras.model_dump(include=CerebrasJob.keys_of(Role.PLACE) - {"job_labels"}))
TURN = flags(
    stop=PATHS.stop,
    lock=STUDY.cerebras.lock if STUDY.cerebras.on_csx else None,
    job_labels=STUDY.cerebras.job_labels,
)
if workflow.is_main_process and not QUEUED and "csx" not in workflow.global_resources:
    workflow.register_resource("csx", 1)


rule run_on_appliance:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    pathvars:
        job="run_on_appliance",
    # First, so that the appliance does not wait.
    priority: 4
    # run_on_appliance.py itself tries again what another attempt can help.
    retries: 0
    conda:
        ROOT / "envs/sparseft.yaml"
    threads: STUDY.resources.threads
    resources:
        **requested(),
        csx=int(STUDY.cerebras.on_csx),
        # Under Slurm the licence also counts the jobs of other users.
        slurm_extra="--licenses=csx:1" if STUDY.cerebras.on_csx else "",
    params:
        run_id=grid.RUN_ID,
        script="",
        kind=lambda w: "training",
        settings=lambda w: f"{run_settings(w)} {flags(**STUDY.cerebras.deciding)}",
        turn=lambda w, input: TURN,
        places=lambda w, input, output: f"{places(w, input, output)} {saving_flags(w)} {OTHER_FLAGS}",
    shell:
        PREPARED + 'python "$SCRIPTS/run_on_appliance.py" --name {params.run_id:q} --log {log:q} {params.turn}'
        " -- {params.script} {params.settings} {params.places} 2> {log:q}"
