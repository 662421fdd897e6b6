# One job makes the masks of all sparsities of a model and a method in one pass, if it has no pruned base. A sparsity
# that is added to the grid later has a job of its own, so that nothing is trained again. A method with sparsities of
# its own also has a job per sparsity.
from sparseft.stages import compute_masks, import_pruned

# The jobs of this command on other machines start when some masks exist already. They make what this command planned.
if workflow.is_main_process:
    os.environ["SPARSEFT_ADDED"] = " ".join(f"{percent:02d}" for percent in targets.added_sparsities(STUDY))


envvars:
    "SPARSEFT_ADDED",


ADDED = os.environ["SPARSEFT_ADDED"].split()
# Those of single methods, by the method.
OWN = STUDY.grid.sparsities_of
TOGETHER = sorted({f"{percent:02d}" for percent in STUDY.grid.sparsities}.difference(ADDED))
# Masks that depend on a task's examples have a folder per task. For others, this wildcard is empty.
MASKS = f"{grid.MASKS}{{task_folder}}"
*OF_MASK, PRUNED_MANIFEST = grid.pass_files(
    MASKS, "{method}", ["{sparsity}"], f"{grid.PRUNED_BASES}{{task_folder}}"
).outputs()
PRUNED = [*OF_MASK, update(str(PRUNED_MANIFEST))]


examples_of = lambda w: targets.mask_examples(STUDY, SimpleNamespace(**values_of(w)))
# The sparsities of a pass and its threads, which decide no bit of a mask.
pass_of = lambda w, input, threads: effort_of(compute_masks, sparsities=TOGETHER, threads=threads)(w, input)


rule compute_masks:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        grid.pass_files(MASKS, "{method}", TOGETHER).outputs(),
    log:
        f"{PATHS.logs}/compute_masks/{{model}}{{task_folder}}/{{method}}.log",
    benchmark:
        f"{PATHS.benchmarks}/compute_masks/{{model}}{{task_folder}}/{{method}}.tsv"
    wildcard_constraints:
        method=f"(?!(?:{'|'.join(OWN)})(?![a-z0-9_]))(?:{grid.MASKING_METHOD})",
    conda:
        ENVIRONMENT
    threads: threads_of(compute_masks)
    resources:
        mem_mb=memory_of(compute_masks),
        runtime=minutes_of(compute_masks),
        gpu=gpus_of(compute_masks),
    params:
        settings=settings_of(compute_masks),
        version=version_of(compute_masks),
        effort=pass_of,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/compute_masks.py"
        " --model_path {input.model_path:q} --output_dir {params.folder:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


# A sparsity that was added later, and the mask of the dense runs, which every method shares: sparsity 00, all ones.
rule compute_one_mask:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        grid.pass_files(MASKS, "{method}", ["{sparsity}"], is_added=True).outputs(),
    log:
        f"{PATHS.logs}/compute_one_mask/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.log",
    benchmark:
        f"{PATHS.benchmarks}/compute_one_mask/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.tsv"
    wildcard_constraints:
        method=f"{grid.DENSE}|{grid.MASKING_METHOD}",
        sparsity="|".join(["00", *ADDED, *(f"{percent:02d}" for percents in OWN.values() for percent in percents)]),
    conda:
        ENVIRONMENT
    threads: threads_of(compute_masks)
    resources:
        mem_mb=memory_of(compute_masks),
        runtime=minutes_of(compute_masks),
        gpu=gpus_of(compute_masks),
    params:
        settings=settings_of(compute_masks),
        version=version_of(compute_masks),
        effort=pass_of,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/compute_masks.py"
        " --model_path {input.model_path:q} --output_dir {params.folder:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


ruleorder: compute_masks > compute_one_mask


# Methods that update weights or write a smaller model: mask and pruned base of one sparsity, from which the runs start.
rule prune:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        PRUNED,
    log:
        f"{PATHS.logs}/prune/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.log",
    benchmark:
        f"{PATHS.benchmarks}/prune/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.tsv"
    wildcard_constraints:
        method=grid.PRUNING_METHOD,
    conda:
        ENVIRONMENT
    threads: threads_of(compute_masks)
    resources:
        mem_mb=memory_of(compute_masks),
        runtime=minutes_of(compute_masks),
        gpu=gpus_of(compute_masks),
    params:
        settings=settings_of(compute_masks),
        version=version_of(compute_masks),
        effort=pass_of,
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/compute_masks.py"
        " --model_path {input.model_path:q} --output_dir {params.folder:q} {params.settings} {params.effort}"
        f" --gpus {{resources.gpu}} --jobs_per_gpu {SHARE} > {{log:q}} 2>&1"


imported_sources = own_files(lambda w: model_files(STUDY.pruned_source(w.model, w.method, int(w.sparsity)) or ""))


# A mask and the weights that another tool pruned. The mask is inferred by a comparison with the model.
rule import_pruned:
    input:
        imported_sources,
        model_path=grid.MANIFEST,
    output:
        PRUNED,
    log:
        f"{PATHS.logs}/import_pruned/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.log",
    benchmark:
        f"{PATHS.benchmarks}/import_pruned/{{model}}{{task_folder}}/{{method}}_sparsity{{sparsity}}.tsv"
    wildcard_constraints:
        method=grid.IMPORTED_METHOD,
    conda:
        ENVIRONMENT
    threads: threads_of(import_pruned)
    resources:
        mem_mb=memory_of(import_pruned),
        runtime=minutes_of(import_pruned),
        gpu=gpus_of(import_pruned),
    params:
        settings=settings_of(import_pruned),
        version=version_of(import_pruned),
        content=content_of(imported_sources),
        folder=folder_of,
    shell:
        f"{PYTHON} {SCRIPTS}/import_pruned.py"
        " --model_path {input.model_path:q} --output_dir {params.folder:q} {params.settings} > {log:q} 2>&1"
