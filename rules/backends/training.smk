# The training of one run. The file of a backend includes this one. Before it, it says how it trains: the params of its
# stage (TRAINING), the modes of its adapters (ADAPTER_MODES), what it reads beside the model (BESIDE), and the resources,
# the priority and the retries of its jobs.
continued = lambda w: PATHS.trained(STUDY.start_of(run_of(w)))


use rule run_script as train_adapter with:
    input:
        **BESIDE,
        data_dir=trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        directory(f"{grid.of_modes(PATHS.run, ADAPTER_MODES)}/adapter"),
        output_dir=f"{grid.of_modes(PATHS.run, ADAPTER_MODES)}/train.json",
    pathvars:
        job=f"train_adapter/{grid.RUN_ID}",
    priority: PRIORITY
    retries: RETRIES
    resources:
        **requested | ON_APPLIANCE,
    params:
        **TRAINING,


# Train the kept weights of one run themselves.
use rule run_script as train_weights with:
    input:
        **BESIDE,
        data_dir=trained_rows,
        model_path=base_of,
        mask_path=mask_of,
        initial_adapter=continued,
        dense_path=teacher_of,
    output:
        directory(f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/weights"),
        output_dir=f"{grid.of_modes(PATHS.run, grid.FULL_MODES)}/train.json",
    pathvars:
        job=f"train_weights/{grid.RUN_ID}",
    priority: PRIORITY
    retries: RETRIES
    resources:
        **requested | ON_APPLIANCE,
    params:
        **TRAINING,
