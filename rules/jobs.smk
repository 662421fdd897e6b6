# Most rules are one of these two with their own files. `job` is the name of their log. A change of `settings` reruns a job.
# Snakemake compares no param that is a function of input, output or threads, as `places` is. So `places` decides no number.
rule run_script:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    pathvars:
        job="run_script",
    conda:
        ROOT / "envs/sparseft.yaml"
    params:
        script="",
        settings="",
        places="",
    shell:
        'python "$SCRIPTS"/{params.script} {params.settings} {params.places} 2> {log:q}'


rule run_on_gpus:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    pathvars:
        job="run_on_gpus",
    conda:
        ROOT / "envs/sparseft.yaml"
    resources:
        gpu=0,
    params:
        launch=[],
        script="",
        settings="",
        places="",
    shell:
        "on_gpus {resources.gpu} "
        'python {params.launch:q} "$SCRIPTS"/{params.script} {params.settings} {params.places} 2> {log:q}'
