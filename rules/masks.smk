# One job a model and method: every sparsity of the grid comes from one pass.
rule compute_masks:
    input:
        manifest=lambda w: manifest_if(STUDY.masks.scope_of, w.method, STUDY.grid.sparsities),
    output:
        masks=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity=targets.sparsities(STUDY), allow_missing=True),
        report=f"{grid.MASKS}/report_{{method}}.json",
        plots=expand(f"{grid.MASKS}/{grid.MASK_PLOT}", plot=grid.MASK_PLOTS, allow_missing=True),
    log:
        "results/logs/compute_masks/{model}_{method}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.WEIGHT_METHODS),
    conda:
        "../envs/sparseft.yaml"
    threads: 2  # one layer is read while another is counted; the masks are the same for any number
    resources:
        mem_mb=memory("weights"),  # a few blocks of a matrix a thread, whatever the model; measured
        runtime=minutes("weights"),
        gpu=0,
    params:
        code=code("compute_masks.py", without=("sparseft.pruning.calibration",)),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method=lambda w: w.get("method", grid.DENSE),
        sparsities=lambda w: [str(s / 100) for s in STUDY.grid.sparsities] if "method" in w.keys() else ["0"],
        settings=lambda w: flags(**STUDY.masks.used_by(w.get("method", grid.DENSE))),
    message:
        "compute the {params.method} masks of {wildcards.model}"
    shell:
        "on_gpus {resources.gpu} "
        'python "$SCRIPTS/compute_masks.py"'
        " --model_path {params.model:q}"
        " --output_dir {params.folder:q}"
        " --sparsity {params.sparsities}"
        " --method {params.method:q}"
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
        report=f"{grid.MASKS}/report_{grid.DENSE}.json",
        plots=expand(f"{grid.MASKS}/{grid.MASK_PLOT}", plot=grid.MASK_PLOTS, method=grid.DENSE, allow_missing=True),
    log:
        "results/logs/compute_masks/{model}_dense.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_dense.tsv"


# Importances that look at a task's training examples: gradient, taylor, wanda; the model is loaded and run.
use rule compute_masks as compute_task_masks with:
    input:
        manifest=lambda w: manifest_if(STUDY.masks.scope_of, w.method, STUDY.grid.sparsities),
        train=f"{grid.DATA}/train.jsonl",
    output:
        masks=expand(f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt", sparsity=targets.sparsities(STUDY), allow_missing=True),
        report=f"{grid.TASK_MASKS}/report_{{method}}.json",
        plots=expand(f"{grid.TASK_MASKS}/{grid.MASK_PLOT}", plot=grid.MASK_PLOTS, allow_missing=True),
    log:
        "results/logs/compute_masks/{model}_{task}_{method}.log",
    benchmark:
        "results/benchmarks/compute_masks/{model}_{task}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.TASK_METHODS),
    threads: STUDY.resources.threads
    resources:
        mem_mb=memory("mask"),  # the model, a score a weight in fp32, one matrix of gradients
        runtime=minutes("mask"),
        gpu=ONE_GPU,
    params:
        code=code("compute_masks.py"),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        sparsities=[str(s / 100) for s in STUDY.grid.sparsities],
        settings=lambda w: flags(task=w.task, data_dir=grid.DATA.format(task=w.task), **STUDY.masks.used_by(w.method)),
        # not by `input`: what is computed from it is not tracked
