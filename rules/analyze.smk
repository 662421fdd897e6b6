# The complete configuration, which gives the study again; another configuration is analysed anew, and reruns nothing else by it.
rule write_configuration:
    output:
        # Not removed before it is written: it may be the --configfile of this very command, which every job reads.
        file=update(f"{grid.ANALYSIS}/{grid.CONFIGURATION}"),
    log:
        "results/logs/write_configuration.log",
    localrule: True
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("write_configuration.py"),
        text=complete_text(STUDY, Path.cwd()),
    message:
        "write the configuration"
    shell:
        'python "$SCRIPTS/write_configuration.py"' " --text {params.text:q}" " --output {output.file:q}" " 2> {log:q}"


# All runs of the grid to tables, plots, the two pages in Markdown and the results page.
rule analyze_results:
    input:
        configuration=rules.write_configuration.output.file,
        # As functions, because a plan without the analysis needs no lists. Besides, Snakemake hashes a list once per file in it.
        evaluations=lambda w: targets.run_targets(STUDY, "evaluation.json"),
        validations=lambda w: targets.run_targets(STUDY, "validation_report.json"),
        merges=lambda w: targets.run_targets(STUDY, "merge.json"),
        trainings=lambda w: targets.run_targets(STUDY, "train.json", trained_only=True),
        before=lambda w: targets.run_targets(STUDY, "before_merge.json", trained_only=True),
    output:
        tables=expand(f"{grid.ANALYSIS}/{{name}}.csv", name=grid.TABLES),
        findings=f"{grid.ANALYSIS}/{grid.FINDINGS}",
        pages=expand(f"{grid.ANALYSIS}/{{name}}", name=grid.PAGES),
        report=f"{grid.ANALYSIS}/{grid.REPORT}",
        plots=directory(f"{grid.ANALYSIS}/plots"),
    log:
        "results/logs/analyze_results.log",
    benchmark:
        "results/benchmarks/analyze_results.tsv"
    conda:
        "../envs/sparseft.yaml"
    threads: 2  # draw side by side; the figures are the same for any number
    params:
        code=code("analyze_results.py"),
        parts=[sha256(part) for part in sorted((ROOT / grid.REPORT_PARTS).glob("report.*"))],
        runs=lambda w: grid.RUNS,
        folder=subpath(output.plots, parent=True),
        settings=flags(**STUDY.analysis.model_dump()),
    message:
        "analyse {grid.RUNS}"
    shell:
        'python "$SCRIPTS/analyze_results.py"'
        " --results_dir {params.runs:q}"
        " --output_dir {params.folder:q}"
        " --configuration {input.configuration:q}"
        " {params.settings}"
        " --plot --processes {threads}"
        " > {log:q} 2>&1"
