# One job makes the masks of all sparsities of a model and a method in one pass, if it has no pruned base. A sparsity
# that is added to the grid later has a job of its own, so that nothing is trained again. A method with sparsities of
# its own also has a job per sparsity.

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


# What passes do that compute these sparsities.
in_pass = lambda threads: {"sparsities": TOGETHER, "threads": threads}
examples_of = lambda w: targets.mask_examples(STUDY, with_task(w))


use rule run_script as compute_masks with:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        output_dir=grid.pass_files(MASKS, "{method}", TOGETHER).outputs(),
    pathvars:
        job="compute_masks/{model}{task_folder}/{method}",
    wildcard_constraints:
        method=f"(?!(?:{'|'.join(OWN)})(?![a-z0-9_]))(?:{grid.MASKING_METHOD})",
    params:
        **running("compute_masks", effort=in_pass),


# A sparsity that was added later, and the mask of the dense runs, which every method shares: sparsity 00, all ones.
use rule run_script as compute_one_mask with:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        output_dir=grid.pass_files(MASKS, "{method}", ["{sparsity}"], is_added=True).outputs(),
    pathvars:
        job="compute_one_mask/{model}{task_folder}/{method}_sparsity{sparsity}",
    wildcard_constraints:
        method=f"{grid.DENSE}|{grid.MASKING_METHOD}",
        sparsity="|".join(["00", *ADDED, *(f"{percent:02d}" for percents in OWN.values() for percent in percents)]),
    params:
        **running("compute_masks", effort=in_pass),


ruleorder: compute_masks > compute_one_mask


# Methods that update weights or write a smaller model: mask and pruned base of one sparsity, from which the runs start.
use rule run_script as prune with:
    input:
        examples_of,
        model_path=grid.MANIFEST,
    output:
        output_dir=PRUNED,
    pathvars:
        job="prune/{model}{task_folder}/{method}_sparsity{sparsity}",
    wildcard_constraints:
        method=grid.PRUNING_METHOD,
    params:
        **running("compute_masks", effort=in_pass),


imported_sources = own_files(lambda w: model_files(STUDY.pruned_source(w.model, w.method, int(w.sparsity)) or ""))


# A mask and the weights that another tool pruned. The mask is inferred by a comparison with the model.
use rule run_script as import_pruned with:
    input:
        imported_sources,
        model_path=grid.MANIFEST,
    output:
        output_dir=PRUNED,
    pathvars:
        job="import_pruned/{model}{task_folder}/{method}_sparsity{sparsity}",
    wildcard_constraints:
        method=grid.IMPORTED_METHOD,
    params:
        **running("import_pruned", sources=imported_sources),
