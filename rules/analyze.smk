from sparseft.storage.hashes import sha256
from sparseft.study.configfiles import complete_text


# Write the complete configuration, from which the study can be made again. After a change of the configuration, only the
# analysis depends on this file and runs again.
use rule run_script as write_configuration with:
    output:
        # `update` keeps the file until it is replaced, because it may be the --configfile of this very command.
        file=update(f"{PATHS.analysis}/{grid.CONFIGURATION}"),
    pathvars:
        job="write_configuration",
    localrule: True
    params:
        **running("write_configuration.py"),
        settings=flags(text=complete_text(STUDY, Path.cwd())),
        places=lambda w, output: flags(output=output.file),
    message:
        "write the configuration"


# Turn all runs of the grid into tables, plots, two pages in Markdown and the results page.
rule analyze_results:
    input:
        configuration=rules.write_configuration.output.file,
        # These are functions, because a plan without the analysis needs no lists, and Snakemake hashes a list once per file in it.
        evaluations=lambda w: targets.run_targets(STUDY, "evaluation.json"),
        selections=lambda w: targets.selection_targets(STUDY),
        validations=lambda w: targets.run_targets(STUDY, "validation_report.json"),
        merges=lambda w: targets.run_targets(STUDY, "merge.json"),
        trainings=lambda w: targets.run_targets(STUDY, "train.json", trained_only=True),
        before=lambda w: targets.run_targets(STUDY, "before_merge.json", trained_only=True),
    output:
        tables=expand(f"{PATHS.analysis}/{{name}}", name=grid.TABLES),
        findings=f"{PATHS.analysis}/{grid.FINDINGS}",
        pages=expand(f"{PATHS.analysis}/{{name}}", name=grid.PAGES),
        report=f"{PATHS.analysis}/{grid.REPORT}",
        plots=directory(f"{PATHS.analysis}/plots"),
    log:
        "<logs>/analyze_results.log",
    benchmark:
        "<benchmarks>/analyze_results.tsv"
    conda:
        "../envs/sparseft.yaml"
    # Each thread draws a figure. The figures are the same for any number of threads.
    threads: 2
    params:
        code=code("analyze_results.py"),
        parts=[sha256(part) for part in sorted((ROOT / grid.REPORT_PARTS).glob("*"))],
        measured=lambda w: targets.throughput_digests(STUDY),
        runs=lambda w: PATHS.runs,
        folder=subpath(output.plots, parent=True),
        throughput=lambda w: str(Path(PATHS.throughput).parent),
        settings=flags(**STUDY.analysis.model_dump()),
    message:
        "analyse {params.runs}"
    shell:
        'python "$SCRIPTS/analyze_results.py"'
        " --results_dir {params.runs:q}"
        " --output_dir {params.folder:q}"
        " --configuration {input.configuration:q}"
        " --throughput_dir {params.throughput:q}"
        " {params.settings}"
        " --plot --processes {threads}"
        " > {log:q} 2>&1"
