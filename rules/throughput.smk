# Turn the measurements into one table and its plots. The backend's own rules make the measurements.
rule analyze_throughput:
    input:
        records=targets.throughput_targets(STUDY),
    output:
        table=PATHS.throughput_table,
        plots=directory(PATHS.throughput_plots),
    log:
        "<logs>/analyze_throughput.log",
    benchmark:
        "<benchmarks>/analyze_throughput.tsv"
    conda:
        "../envs/sparseft.yaml"
    params:
        code=code("analyze_throughput.py"),
    message:
        "analyse the throughput"
    shell:
        'python "$SCRIPTS/analyze_throughput.py"'
        " --records {input.records:q}"
        " --table {output.table:q}"
        " --plots {output.plots:q}"
        " 2> {log:q}"
