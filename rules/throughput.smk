# The measurements as one table, and as plots.
rule analyze_throughput:
    input:
        records=targets.throughput_targets(STUDY),
    output:
        table=report(
            grid.THROUGHPUT_TABLE,
            caption="../workflow/report/table.rst",
            category="Tables",
            labels={"table": "throughput_vs_batch_size"},
        ),
        plots=report(
            directory(grid.THROUGHPUT_PLOTS),
            patterns=["{name}.png"],
            caption="../workflow/report/figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        "results/logs/analyze_throughput.log",
    benchmark:
        "results/benchmarks/analyze_throughput.tsv"
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
