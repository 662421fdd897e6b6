# Turn the measurements into one table and its plots. The backend's own rules make the measurements.
use rule run_script as analyze_throughput with:
    input:
        records=targets.throughput_targets(STUDY),
    output:
        table=PATHS.throughput_table,
        plots=directory(PATHS.throughput_plots),
    pathvars:
        job="analyze_throughput",
    params:
        **running("analyze_throughput.py"),
