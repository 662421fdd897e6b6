# Write the complete configuration, from which the study can be made again.
use rule run_script as write_configuration with:
    input:
        # After these, all is fetched, and the manifests know the revisions. The manifests are not inputs,
        # because you may delete models.
        lambda w: targets.first_evaluations(STUDY),
    output:
        # `update` keeps the file until it is replaced, because it may be the --configfile of this very command.
        output=update(f"{PATHS.analysis}/{grid.CONFIGURATION}"),
    pathvars:
        job="write_configuration",
    localrule: True
    params:
        **running("write_configuration"),
        files=lambda w, output: flags(output=output.output, manifests=source_manifests(STUDY)),


use rule run_script as analyze_results with:
    input:
        lambda w: targets.record_targets(STUDY),
        configuration=rules.write_configuration.output,
    output:
        report(directory(f"{PATHS.analysis}/plots"), patterns=["{figure}.svg"], category="Figures"),
        output_dir=[
            *(report(f"{PATHS.analysis}/{name}", category="Tables") for name in grid.TABLES),
            *(report(f"{PATHS.analysis}/{name}", category="Pages") for name in (grid.REPORT, *grid.PAGES)),
            f"{PATHS.analysis}/{grid.FINDINGS}",
        ],
    pathvars:
        job="analyze_results",
    params:
        **running("analyze_results"),
        measured=lambda w: targets.measured_digests(STUDY),


# Turn the measurements of the backend's rules into one table and its figures.
use rule run_script as analyze_throughput with:
    input:
        records=targets.throughput_targets(STUDY),
    output:
        table=report(PATHS.throughput_table, category="Tables"),
        plots=report(directory(PATHS.throughput_plots), patterns=["{figure}.svg"], category="Figures"),
    pathvars:
        job="analyze_throughput",
    params:
        **running("analyze_throughput"),
