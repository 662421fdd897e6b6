# All runs of the grid to tables, plots and the two documents.
rule analyze_results:
    input:
        evaluations=grid.run_targets(STUDY, "evaluation.json"),
        validations=grid.run_targets(STUDY, "validation_report.json"),
        merges=grid.run_targets(STUDY, "merge.json"),
        trainings=grid.run_targets(STUDY, "train.json", trained_only=True),
    output:
        tables=[f"{grid.ANALYSIS}/{name}.csv" for name in grid.TABLES],
        documents=[f"{grid.ANALYSIS}/{name}" for name in ("correctness_memo.md", "EXPERIMENTS.md")],
        plots=directory(f"{grid.ANALYSIS}/plots"),
    log:
        "results/logs/analyze_results.log",
    benchmark:
        "results/benchmarks/analyze_results.tsv"
    params:
        code=code("analyze_results.py"),
        script=script("analyze_results.py"),
        runs=grid.RUNS,
        folder=grid.ANALYSIS,
    message:
        "analyse {grid.RUNS}"
    conda:
        "../envs/sparseft.yaml"
    shell:
        "{PYTHON:q} {params.script:q}"
        " --results_dir {params.runs:q}"
        " --output_dir {params.folder:q}"
        " --plot"
        " 2> {log:q}"
