# Train the kept weights of one run themselves: the backend's rule train_adapter, with another folder.
use rule train_adapter as train_weights with:
    output:
        directory(f"{PATHS.run}/weights"),
        output_dir=f"{PATHS.run}/train.json",
    pathvars:
        job=f"train_weights/{grid.RUN_ID}",
    wildcard_constraints:
        mode="|".join(grid.FULL_MODES),
