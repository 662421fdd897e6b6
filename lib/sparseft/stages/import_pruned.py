"""Import a checkpoint that another tool pruned: infer its mask by a comparison with the model that the tool was given.

    import_pruned.py --model_path models/llama --source path:/data/llama-wanda-50 --name wanda --sparsity 0.5 \
        --output_dir masks/llama --pruned_dir pruned/llama

Without --source, the zeros of --model_path itself are the mask.

Writes masks_sparsity{XX}_imported_{NAME}.pt and its report to --output_dir. The pruned weights become a checkpoint
of their own, sparsity{XX}_imported_{NAME} in --pruned_dir.
"""

import sys
from pathlib import Path
from typing import Any

from sparseft.axes import grid
from sparseft.axes.grid import pass_files
from sparseft.axes.methods import IMPORTED, get_method
from sparseft.common.command import Folder
from sparseft.common.section import parse_section
from sparseft.pruning.masks.settings import Masks, whole_percent
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart
from sparseft.storage.revisions import fixed
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, matrix_by_matrix


def settings(config: Config, wildcards: Any) -> dict:
    """Return which checkpoint of another tool is imported, and what is known of it."""
    name = get_method(wildcards.method).imported
    source = config.pruned_source(wildcards.model, wildcards.method, int(wildcards.sparsity))
    return {
        "source": source and fixed(source),
        "pattern": config.masks.imported_pattern.get(name),
        "name": name,
        "sparsity": f"0.{wildcards.sparsity}",
        "pruned_dir": grid.PRUNED_BASES.format(model=wildcards.model),
    }


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what an import needs: a matrix at a time, and the disk of the mask and the pruned weights."""
    model = sizes_of(job.model)
    kept = {"masks": model.prunable_weights // 8, "pruned": model.bytes}
    return matrix_by_matrix(model, kept=kept, temporary=model.bytes)


def run(
    *,
    model_path: Folder,
    name: str,
    sparsity: str,
    output_dir: Path,
    pruned_dir: Path,
    source: str | None = None,
    pattern: str | None = None,
) -> None:
    """Check the inputs, import the checkpoint, and print the counts to stderr.

    Args:
        model_path: folder of the model that the tool was given, or of the pruned checkpoint itself, prepared
        name: the method is called imported_NAME: letters a to z and digits
        sparsity: fraction of the weights that the tool pruned, in whole percents
        output_dir: folder of the mask and its report
        pruned_dir: folder in which the pruned weights get a folder
        source: the pruned checkpoint, as safetensors: path:DIR or hub:ORG/NAME[@REVISION]
        pattern: N:M, if of every M weights in a row at most N are not zero; then every zero is pruned
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.pruning.imported import import_pruned
    from sparseft.pruning.mask_generator import MaskPass

    method = get_method(f"{IMPORTED.name}_{name}")
    percent = whole_percent(sparsity)
    # It checks the source and the pattern.
    described = {name: {percent: source or f"path:{model_path}"}}
    parse_section(Masks, {"imported": described, "imported_pattern": {name: pattern} if pattern else {}}, "masks")
    files = pass_files(output_dir, method.name, [f"{percent:02d}"], pruned_dir)
    kind, _, place = (source or "").partition(":")
    inputs = [model_path, Path(place) if kind == "path" else None]
    check_apart([output_dir, files.base], inputs)
    masks = MaskPass(Checkpoint(model_path), method, [percent], files, Masks())
    masks.check_outputs()
    hold(files.report)
    hold(files.base)
    counts = import_pruned(masks, source, pattern)
    line = f"{files.masks[0]}: {100 * counts['reached']:.2f} % pruned"
    if source:
        line += f", {counts['natural_zeros']} natural zeros {'pruned' if pattern else 'kept'}"
        line += f", {counts['changed_weights']} kept weights changed"
    print(line, file=sys.stderr)
