# Every job that runs a script of its own is this one with its files. A named input or output is the flag of this name,
# as `places` says; the script finds the unnamed ones beside them. A change of `settings` reruns a job. Snakemake
# compares no param that is a function of the files, as `places` is, so it decides no number. `job` is the name of the
# log.
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
        gpu=0,
    params:
        launch=[],
        script="",
        kind=lambda w: "",
        settings="",
        places=places,
        # What follows if the script fails.
        otherwise="",
    shell:
        PREPARED
        + 'on_gpus {resources.gpu} python {params.launch:q} "$SCRIPTS"/{params.script} {params.settings} {params.places}'
        " > {log:q} 2>&1 {params.otherwise}"
