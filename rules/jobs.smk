# Every job that runs a script is this one with its files. A named input or output is the flag of this name; the script
# finds the unnamed ones beside them. A change of `settings` reruns a job, and one of `places` does not, because
# Snakemake compares no param that is a function of the files. `job` is the name of the log.
rule run_script:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    pathvars:
        job="run_script",
    conda:
        ROOT / "envs/sparseft.yaml"
    resources:
        **requested(),
        # Otherwise Slurm may take the GPUs from several machines.
        nodes=1,
    params:
        # What stands between `python` and the script.
        launch="",
        script="",
        kind=lambda w: "",
        settings="",
        places=places,
        # What follows if the script fails.
        otherwise="",
    shell:
        PREPARED
        + 'on_gpus {resources.gpu} python {params.launch} "$SCRIPTS"/{params.script} {params.settings} {params.places}'
        " > {log:q} 2>&1 {params.otherwise}"
