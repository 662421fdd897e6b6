# The environment that runs Snakemake also runs the scripts, unless --sdm conda makes one.
os.environ.update(
    SPARSEFT_ROOT=str(ROOT),
    SPARSEFT_JOBS_PER_GPU=str(STUDY.resources.jobs_per_gpu),
    SPARSEFT_BIN="" if workflow.deployment_settings.deployment_method else f"{Path(sys.executable).parent}:",
)


# Every job that runs a script is this one with its files. A named input or output is the flag of this name, and --*_dir
# gets its folder. The script finds the unnamed ones beside them. `job` is the name of the log.
rule run_script:
    log:
        "<logs>/<job>.log",
    benchmark:
        "<benchmarks>/<job>.tsv"
    pathvars:
        job="run_script",
    conda:
        ROOT / "envs/sparseft.yaml"
    threads: lambda wildcards, rulename: REQUESTS.threads(job_of(rulename, wildcards))
    resources:
        **requested,
    params:
        # What starts the script.
        command="python",
        script="",
        settings="",
        files=files,
        effort="",
        answer="",
    # The command has no path, because a moved folder would then run everything again. `on_gpus N COMMAND` runs a command
    # on N GPUs that it locks (models/language_model/gpus.py). With N = 0 the command sees no GPU.
    shell:
        'export PATH="$SPARSEFT_BIN$PATH" PYTHONPATH="$SPARSEFT_ROOT/lib" SCRIPTS="$SPARSEFT_ROOT/workflow/scripts"'
        ' SPARSEFT_LOG_TRACEBACKS=1; on_gpus() {{ if [ "$1" = 0 ]; then CUDA_VISIBLE_DEVICES= "${{@:2}}"; '
        'else SPARSEFT_GPUS="$1" "${{@:2}}"; fi; }}; '
        'on_gpus {resources.gpu} {params.command} "$SCRIPTS"/{params.script}'
        " {params.settings} {params.files} {params.effort} > {log:q} 2>&1 {params.answer}"
