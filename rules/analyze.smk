from sparseft.stages import analyze_results, analyze_throughput, write_configuration


# Write the configuration, from which the study can be made again.
rule write_configuration:
    input:
        # After these, all is fetched, and the manifests know the revisions. The manifests are not inputs,
        # because you may delete models.
        lambda w: targets.first_evaluations(STUDY),
    output:
        # `update` keeps the file until it is replaced, because it may be the --configfile of this very command.
        update(f"{PATHS.analysis}/{grid.CONFIGURATION}"),
    log:
        f"{PATHS.logs}/write_configuration.log",
    benchmark:
        f"{PATHS.benchmarks}/write_configuration.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    threads: threads_of(write_configuration)
    resources:
        mem_mb=memory_of(write_configuration),
        runtime=minutes_of(write_configuration),
        gpu=gpus_of(write_configuration),
    params:
        settings=settings_of(write_configuration),
        version=version_of(write_configuration),
        manifests=lambda w, output: source_manifests(STUDY),
    shell:
        f"{PYTHON} {SCRIPTS}/write_configuration.py"
        " --manifests {params.manifests:q} --output {output:q} {params.settings} > {log:q} 2>&1"


rule analyze_results:
    input:
        lambda w: targets.record_targets(STUDY),
        configuration=rules.write_configuration.output,
    output:
        report(directory(f"{PATHS.analysis}/plots"), patterns=["{figure}.svg"], category="Figures"),
        [report(f"{PATHS.analysis}/{name}", category="Tables") for name in grid.TABLES],
        [report(f"{PATHS.analysis}/{name}", category="Pages") for name in (grid.REPORT, *grid.PAGES)],
        f"{PATHS.analysis}/{grid.FINDINGS}",
    log:
        f"{PATHS.logs}/analyze_results.log",
    benchmark:
        f"{PATHS.benchmarks}/analyze_results.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(analyze_results)
    resources:
        mem_mb=memory_of(analyze_results),
        runtime=minutes_of(analyze_results),
        gpu=gpus_of(analyze_results),
    params:
        settings=settings_of(analyze_results),
        version=version_of(analyze_results),
        measured=lambda w: targets.measured_digests(STUDY),
    shell:
        f"{PYTHON} {SCRIPTS}/analyze_results.py"
        f" --configuration {{input.configuration:q}} --output_dir {PATHS.analysis} {{params.settings}} > {{log:q}} 2>&1"


# Turn the measurements of the backend's rules into one table and its figures.
rule analyze_throughput:
    input:
        records=targets.throughput_targets(STUDY),
    output:
        table=report(PATHS.throughput_table, category="Tables"),
        plots=report(directory(PATHS.throughput_plots), patterns=["{figure}.svg"], category="Figures"),
    log:
        f"{PATHS.logs}/analyze_throughput.log",
    benchmark:
        f"{PATHS.benchmarks}/analyze_throughput.tsv"
    conda:
        ENVIRONMENT
    threads: threads_of(analyze_throughput)
    resources:
        mem_mb=memory_of(analyze_throughput),
        runtime=minutes_of(analyze_throughput),
        gpu=gpus_of(analyze_throughput),
    params:
        version=version_of(analyze_throughput),
    shell:
        f"{PYTHON} {SCRIPTS}/analyze_throughput.py"
        " --records {input.records:q} --table {output.table:q} --plots {output.plots:q} > {log:q} 2>&1"
