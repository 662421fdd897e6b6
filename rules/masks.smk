# One job makes the masks of all sparsities of a model and a method in one pass, if it updates no weights. A sparsity that is
# added to the grid later has a job of its own. So the other masks stay as they are, and so do the adapters trained on them.

# The jobs of this command on other machines start when some masks exist already. They make what this command planned.
if workflow.is_main_process:
    os.environ["SPARSEFT_ADDED"] = " ".join(f"{percent:02d}" for percent in targets.added_sparsities(STUDY))


envvars:
    "SPARSEFT_ADDED",


ADDED = os.environ["SPARSEFT_ADDED"].split()
TOGETHER = sorted({f"{percent:02d}" for percent in STUDY.grid.sparsities}.difference(ADDED))
# Masks that depend on a task's examples have a folder per task. For others, this wildcard is empty.
MASKS = f"{grid.MASKS}{{task_folder}}"
PRUNED_BASES = f"{grid.PRUNED_BASES}{{task_folder}}"
PASS = grid.pass_files(MASKS, "{method}", TOGETHER)
ONE = grid.pass_files(MASKS, "{method}", ["{sparsity}"], is_added=True)
PRUNED = grid.pass_files(MASKS, "{method}", ["{sparsity}"], PRUNED_BASES)


rule compute_masks:
    input:
        manifest=grid.MANIFEST,
        examples=mask_examples,
    output:
        **PASS.outputs(),
    log:
        "<logs>/compute_masks/{model}{task_folder}/{method}.log",
    benchmark:
        "<benchmarks>/compute_masks/{model}{task_folder}/{method}.tsv"
    wildcard_constraints:
        method=grid.MASKING_METHOD,
    conda:
        "../envs/sparseft.yaml"
    # With scores from the weights, one layer is read while another is counted.
    threads: lambda w: STUDY.resources.threads if uses_examples(w) else 2
    resources:
        mem_mb=memory("mask", mask_job),
        runtime=minutes("mask", mask_job),
        gpu=lambda w: ONE_GPU if uses_examples(w) else 0,
        # Not in params, because a mask is the same in any pass, and for any number of threads that Snakemake may give it.
        sparsities=lambda w: (
            f"0.{w.sparsity} --is_added" if w.get("sparsity") else " ".join(f"0.{percent}" for percent in TOGETHER)
        ),
        workers=lambda w, threads: STUDY.resources.threads if uses_examples(w) else threads,
    params:
        code=mask_code,
        # Another number of threads changes the last bits of the scores from examples.
        cores=lambda w: STUDY.resources.threads if uses_examples(w) else None,
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
        settings=mask_flags,
    message:
        "compute the {wildcards.method} masks of {wildcards.model}"
    shell:
        "on_gpus {resources.gpu} "
        'python "$SCRIPTS/compute_masks.py"'
        " --model_path {params.model:q}"
        " --output_dir {params.folder:q}"
        " --sparsity {resources.sparsities}"
        " --method {wildcards.method:q}"
        " {params.settings}"
        " --threads {resources.workers}"
        " --plot"
        " 2> {log:q}"


# A sparsity that was added later, and the mask of the dense runs, which every method shares: sparsity 00, all ones.
use rule compute_masks as compute_one_mask with:
    output:
        **ONE.outputs(),
    log:
        "<logs>/compute_one_mask/{model}{task_folder}/{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/compute_one_mask/{model}{task_folder}/{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=f"{grid.DENSE}|{grid.MASKING_METHOD}",
        sparsity="|".join(["00", *ADDED]),


ruleorder: compute_masks > compute_one_mask


# The importances that update weights: mask and pruned base of one sparsity, from which the runs start. manifest.json is written
# last, so that it stands for the whole folder.
use rule compute_masks as prune with:
    output:
        **PRUNED.outputs(),
    log:
        "<logs>/prune/{model}{task_folder}/{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/prune/{model}{task_folder}/{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=grid.UPDATING_METHOD,
    message:
        "prune {wildcards.model} by {wildcards.method} at {wildcards.sparsity} %"


# A mask and the weights that another tool pruned. The mask is inferred by a comparison with the model, one layer at a time.
rule import_pruned:
    input:
        manifest=grid.MANIFEST,
        source=imported_sources,
    output:
        **PRUNED.outputs(),
    log:
        "<logs>/import_pruned/{model}{task_folder}/{method}_sparsity{sparsity}.log",
    benchmark:
        "<benchmarks>/import_pruned/{model}{task_folder}/{method}_sparsity{sparsity}.tsv"
    wildcard_constraints:
        method=grid.IMPORTED_METHOD,
    conda:
        "../envs/sparseft.yaml"
    resources:
        mem_mb=memory("files"),
        runtime=minutes("files"),
    params:
        code=code("import_pruned.py"),
        content=content(imported_sources),
        model=subpath(input.manifest, parent=True),
        folder=subpath(output.report, parent=True),
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
