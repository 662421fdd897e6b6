# The sparsities of the first pass, and those that have a pass of their own, both as two digits.
FIRST_PASS, ADDED = ([f"{percent:02d}" for percent in sparsities] for sparsities in PASSES)


def mask_report(folder, name):
    """Return the path of the report of one pass. `name` is the method, followed by ADDED_SUFFIX if a sparsity was added."""
    return f"{folder}/{grid.MASK_REPORT.format(name=name)}"


def mask_plots(folder, name):
    """Return the paths of the plots of one pass."""
    return [f"{folder}/{grid.MASK_PLOT.format(plot=plot, name=name)}" for plot in grid.MASK_PLOTS]


def pass_suffix(w):
    """Return the flag with the suffix of a pass for an added sparsity; empty for the first pass."""
    return flags(suffix=grid.ADDED_SUFFIX.format(**w) if "sparsity" in w.keys() else None)


def pass_sparsities(w):
    """Return the sparsities of a pass as fractions, in a text for `shell:`. The pass of the dense mask has only 0.00."""
    if "sparsity" in w.keys():
        percents = [w.sparsity]
    elif "method" in w.keys():
        percents = FIRST_PASS
    else:
        percents = ["00"]
    return " ".join(f"0.{percent}" for percent in percents)


# One job per model and method. It makes the masks of all sparsities that the study had when its first mask was made.
rule compute_masks:
    input:
        manifest=grid.MANIFEST,
    output:
        masks=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity=FIRST_PASS, allow_missing=True),
        report=mask_report(grid.MASKS, "{method}"),
        plots=mask_plots(grid.MASKS, "{method}"),
    log:
        "results/logs/compute_masks/{model}_{method}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.WEIGHT_METHODS),
    conda:
        "../envs/sparseft.yaml"
    # One layer is read while another is counted. The masks are the same for any number of threads.
    threads: 2
    resources:
        # A few blocks of a matrix per thread, for any model; measured.
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=0,
        # These two are not in params, because a mask is the same in any pass. So a change of the passes reruns nothing.
        sparsities=pass_sparsities,
        suffix=pass_suffix,
    params:
        code=code("compute_masks.py", without=("sparseft.pruning.calibration",)),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method=lambda w: w.get("method", grid.DENSE),
        settings=lambda w: flags(**STUDY.masks.used_by(w.get("method", grid.DENSE))),
    message:
        "compute the {params.method} masks of {wildcards.model}"
    shell:
        "on_gpus {resources.gpu} "
        'python "$SCRIPTS/compute_masks.py"'
        " --model_path {params.model:q}"
        " --output_dir {params.folder:q}"
        " --sparsity {resources.sparsities}"
        " --method {params.method:q}"
        " {resources.suffix}"
        " {params.settings}"
        " --threads {threads}"
        " --plot"
        " 2> {log:q}"


# The mask of the dense runs, which every method shares: sparsity 00, all ones.
use rule compute_masks as compute_dense_mask with:
    input:
        manifest=grid.MANIFEST,
    output:
        mask=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity="00", method=grid.DENSE, allow_missing=True),
        report=mask_report(grid.MASKS, grid.DENSE),
        plots=mask_plots(grid.MASKS, grid.DENSE),
    log:
        "results/logs/compute_masks/{model}_dense.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_dense.tsv"


# The masks of importances that need a task's training examples. The model is loaded and run.
use rule compute_masks as compute_task_masks with:
    input:
        manifest=grid.MANIFEST,
        train=f"{grid.DATA}/train.jsonl",
    output:
        masks=expand(f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt", sparsity=FIRST_PASS, allow_missing=True),
        report=mask_report(grid.TASK_MASKS, "{method}"),
        plots=mask_plots(grid.TASK_MASKS, "{method}"),
    log:
        "results/logs/compute_masks/{model}_{task}_{method}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{task}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.TASK_METHODS),
    threads: STUDY.resources.threads
    resources:
        # The model, a score per weight in fp32, and one matrix of gradients.
        mem_mb=memory("mask"),
        runtime=minutes("mask"),
        gpu=ONE_GPU,
        sparsities=pass_sparsities,
        suffix=pass_suffix,
    params:
        code=code("compute_masks.py"),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        # The data folder is not computed from `input`, because Snakemake would not track it.
        settings=lambda w: flags(task=w.task, data_dir=grid.DATA.format(task=w.task), **STUDY.masks.used_by(w.method)),


# A sparsity that was added to the grid later. The other masks stay as they are, and so do the adapters trained on them.
use rule compute_masks as compute_added_mask with:
    output:
        mask=f"{grid.MASKS}/{grid.MASK_NAME}.pt",
        report=mask_report(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=mask_plots(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "results/logs/compute_masks/{model}_{method}_sparsity{sparsity}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method="|".join(grid.WEIGHT_METHODS),
        sparsity="|".join(ADDED) or "none",


use rule compute_task_masks as compute_added_task_mask with:
    output:
        mask=f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt",
        report=mask_report(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=mask_plots(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "results/logs/compute_masks/{model}_{task}_{method}_sparsity{sparsity}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{task}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method="|".join(grid.TASK_METHODS),
        sparsity="|".join(ADDED) or "none",
