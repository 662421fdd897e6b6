# The input functions that several rules share. A path may have wildcards, which Snakemake fills in.


@with_signature
def base_of(w):
    """Return the manifest of the weights from which a run starts."""
    return grid.base_manifest(w.method)


@with_signature
def mask_of(w):
    """Return the mask of a run."""
    return grid.mask_path(w.method)


@with_signature
def definition_of(w):
    """Return the files that define how the rows of a run's task are scored."""
    return targets.definition_files(STUDY, w.task)
