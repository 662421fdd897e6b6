from sparseft.methods import get_method

# The sparsities of the first pass, and those that have a pass of their own, both as two digits.
FIRST_PASS, ADDED = ([f"{percent:02d}" for percent in sparsities] for sparsities in PASSES)

# Any sparsity of the grid that prunes, which may have a pruned base.
PRUNED = "|".join(f"{percent:02d}" for percent in STUDY.grid.sparsities if percent) or "none"
# The modules that only the methods that update weights need.
UPDATING = ("sparseft.pruning.weight_updates", "sparseft.pruning.sparsegpt")


# One job per model and method. It makes the masks of all sparsities that the study had when its first mask was made.
rule compute_masks:
    input:
        manifest=grid.MANIFEST,
    output:
        masks=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity=FIRST_PASS, allow_missing=True),
        report=passes.report_file(grid.MASKS, "{method}"),
        plots=passes.plot_files(grid.MASKS, "{method}"),
    log:
        "<logs>/compute_masks/{model}_{method}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{method}.tsv"
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
        # These three are not in params, because a mask is the same in any pass. So a change of the passes reruns nothing.
        sparsities=lambda w: passes.fractions(w, FIRST_PASS),
        suffix=passes.suffix_flag,
        # Snakemake may give fewer.
        workers=lambda w, threads: threads,
    params:
        code=code("compute_masks.py", without=("sparseft.pruning.calibration", *UPDATING)),
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
        " --threads {resources.workers}"
        " --plot"
        " 2> {log:q}"


# The mask of the dense runs, which every method shares: sparsity 00, all ones.
use rule compute_masks as compute_dense_mask with:
    input:
        manifest=grid.MANIFEST,
    output:
        mask=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity="00", method=grid.DENSE, allow_missing=True),
        report=passes.report_file(grid.MASKS, grid.DENSE),
        plots=passes.plot_files(grid.MASKS, grid.DENSE),
    log:
        "<logs>/compute_masks/{model}_dense.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_dense.tsv"


# The masks of importances that need a task's training examples. The model is loaded and run.
use rule compute_masks as compute_task_masks with:
    input:
        manifest=grid.MANIFEST,
        train=f"{grid.DATA}/train.jsonl",
    output:
        masks=expand(f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt", sparsity=FIRST_PASS, allow_missing=True),
        report=passes.report_file(grid.TASK_MASKS, "{method}"),
        plots=passes.plot_files(grid.TASK_MASKS, "{method}"),
    log:
        "<logs>/compute_masks/{model}_{task}_{method}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{task}_{method}.tsv"
    wildcard_constraints:
        method="|".join(grid.MASKING_METHODS),
    threads: STUDY.resources.threads
    resources:
        # The model, a score per weight in fp32, and one matrix of gradients.
        mem_mb=memory("mask"),
        runtime=minutes("mask"),
        gpu=ONE_GPU,
        sparsities=lambda w: passes.fractions(w, FIRST_PASS),
        suffix=passes.suffix_flag,
        workers=STUDY.resources.threads,
    params:
        code=code("compute_masks.py", without=UPDATING),
        # Another number of threads changes the last bits of the scores.
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        # The data folder is not computed from `input`, because Snakemake would not track it.
        settings=lambda w: flags(task=w.task, data_dir=grid.DATA.format(task=w.task), **STUDY.masks.used_by(w.method)),


# The masks of importances that look at a text. They depend on no task, so they lie beside those that look at no example.
use rule compute_task_masks as compute_text_masks with:
    input:
        manifest=grid.MANIFEST,
        text=lambda w: grid.calibration_text(w.method),
        source=lambda w: f"{grid.calibration_text(w.method)}.json",
    output:
        masks=expand(f"{grid.MASKS}/{grid.MASK_NAME}.pt", sparsity=FIRST_PASS, allow_missing=True),
        report=passes.report_file(grid.MASKS, "{method}"),
        plots=passes.plot_files(grid.MASKS, "{method}"),
    log:
        "<logs>/compute_masks/{model}_{method}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{method}.tsv"
    wildcard_constraints:
        method=grid.on_text(grid.MASKING_METHODS),
    params:
        code=code("compute_masks.py", without=UPDATING),
        # Another number of threads changes the last bits of the scores.
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        settings=lambda w: flags(text=grid.calibration_text(w.method), **STUDY.masks.used_by(w.method)),


# A sparsity that was added to the grid later. The other masks stay as they are, and so do the adapters trained on them.
use rule compute_masks as compute_added_mask with:
    output:
        mask=f"{grid.MASKS}/{grid.MASK_NAME}.pt",
        report=passes.report_file(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/compute_masks/{model}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method="|".join(grid.WEIGHT_METHODS),
        sparsity="|".join(ADDED) or "none",


use rule compute_task_masks as compute_added_task_mask with:
    output:
        mask=f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt",
        report=passes.report_file(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/compute_masks/{model}_{task}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{task}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method="|".join(grid.MASKING_METHODS),
        sparsity="|".join(ADDED) or "none",


use rule compute_text_masks as compute_added_text_mask with:
    output:
        mask=f"{grid.MASKS}/{grid.MASK_NAME}.pt",
        report=passes.report_file(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/compute_masks/{model}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=grid.on_text(grid.MASKING_METHODS),
        sparsity="|".join(ADDED) or "none",


# The importances that update weights: mask and pruned base of one sparsity, from which the runs start. manifest.json is written
# last, so that it stands for the whole folder.
use rule compute_task_masks as prune_on_task with:
    output:
        mask=f"{grid.TASK_MASKS}/{grid.MASK_NAME}.pt",
        base=f"{grid.TASK_PRUNED_BASES}/{grid.PRUNED_NAME}/manifest.json",
        report=passes.report_file(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.TASK_MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/prune/{model}_{task}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/prune/{model}_{task}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method="|".join(grid.UPDATING_METHODS),
        sparsity=PRUNED,
    resources:
        # A decoder layer, its Hessians, and the examples' hidden states.
        mem_mb=memory("mask"),
        runtime=minutes("mask"),
        gpu=ONE_GPU,
        sparsities=lambda w: passes.fractions(w, FIRST_PASS),
        suffix="",
        workers=STUDY.resources.threads,
    params:
        code=code("compute_masks.py"),
        # Another number of threads changes the last bits of the scores.
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        settings=lambda w: flags(
            task=w.task,
            data_dir=grid.DATA.format(task=w.task),
            pruned_dir=grid.TASK_PRUNED_BASES.format(model=w.model, task=w.task),
            **STUDY.masks.used_by(w.method),
        ),
    message:
        "prune {wildcards.model} by {wildcards.method} at {wildcards.sparsity} %"


use rule compute_text_masks as prune_on_text with:
    output:
        mask=f"{grid.MASKS}/{grid.MASK_NAME}.pt",
        base=f"{grid.PRUNED_BASES}/{grid.PRUNED_NAME}/manifest.json",
        report=passes.report_file(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/prune/{model}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/prune/{model}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=grid.on_text(grid.UPDATING_METHODS),
        sparsity=PRUNED,
    resources:
        mem_mb=memory("mask"),
        runtime=minutes("mask"),
        gpu=ONE_GPU,
        sparsities=lambda w: passes.fractions(w, FIRST_PASS),
        suffix="",
        workers=STUDY.resources.threads,
    params:
        code=code("compute_masks.py"),
        # Another number of threads changes the last bits of the scores.
        cores=STUDY.resources.threads,
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        method="{method}",
        settings=lambda w: flags(
            text=grid.calibration_text(w.method),
            pruned_dir=grid.PRUNED_BASES.format(model=w.model),
            **STUDY.masks.used_by(w.method),
        ),
    message:
        "prune {wildcards.model} by {wildcards.method} at {wildcards.sparsity} %"


# A mask and the weights that another tool pruned. The mask is inferred by a comparison with the model, one layer at a time.
rule import_pruned:
    input:
        manifest=grid.MANIFEST,
        source=imported_sources,
    output:
        mask=f"{grid.MASKS}/{grid.MASK_NAME}.pt",
        base=f"{grid.PRUNED_BASES}/{grid.PRUNED_NAME}/manifest.json",
        report=passes.report_file(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
        plots=passes.plot_files(grid.MASKS, f"{{method}}{grid.ADDED_SUFFIX}"),
    log:
        "<logs>/import_pruned/{model}_{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/import_pruned/{model}_{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=grid.IMPORTED_METHOD,
        sparsity=PRUNED,
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=memory("files"),
        runtime=minutes("files"),
    params:
        code=code("import_pruned.py"),
        content=content(imported_sources),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.mask, parent=True),
        pruned=lambda w: grid.PRUNED_BASES.format(model=w.model),
        name=lambda w: get_method(w.method).imported,
        source=lambda w: STUDY.masks.imported_source(w.method, int(w.sparsity)),
    message:
        "import the {wildcards.method} mask and weights of {wildcards.model} at {wildcards.sparsity} %"
    shell:
        'python "$SCRIPTS/import_pruned.py"'
        " --model_path {params.model:q}"
        " --source {params.source:q}"
        " --name {params.name:q}"
        " --sparsity 0.{wildcards.sparsity}"
        " --output_dir {params.folder:q}"
        " --pruned_dir {params.pruned:q}"
        " 2> {log:q}"
