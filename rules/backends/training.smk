# What the trainings of all backends share.
RUN_INPUT = {
    "mask": mask_of,
    "train": f"{grid.DATA}/train.jsonl",
    "validation": f"{grid.DATA}/validation.jsonl",
    "definition": definition_of,
}
RUN_OUTPUT = {"adapter": directory(f"{PATHS.run}/adapter"), "record": f"{PATHS.run}/train.json"}
RUN_PARAMS = {
    "run_id": grid.RUN_ID,
    # Another number of threads changes the last bits.
    "cores": STUDY.resources.threads,
    "model": subpath(input.manifest, parent=True),
    "data": subpath(input.train, parent=True),
    "folder": subpath(output.record, parent=True),
    "batch_size": STUDY.evaluation_batch_size,
}
RUN_FLAGS = (
    " --run_id {params.run_id:q}"
    " --model_path {params.model:q}"
    " --mask_path {input.mask:q}"
    " --data_dir {params.data:q}"
    " --threads {params.cores}"
    " --evaluation_batch_size {params.batch_size}"
    " {params.settings}"
    " --output_dir {params.folder:q}"
    " 2> {log:q}"
)
