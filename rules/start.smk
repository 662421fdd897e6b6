# What happens once, before the first job: the resources of this machine, and notes for the user.
from sparseft.planning.devices import visible_gpus

if workflow.is_main_process:
    notes = STUDY.unused_training()
    if QUEUED:
        # Without this, Snakemake would cut every job's threads to the cores of the login node.
        workflow.register_resource("_cores", None)
    else:
        gpus = len(visible_gpus())
        if "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", max(gpus, STUDY.resources.gpus))
        if gpus and not STUDY.resources.gpus and STUDY.training_backend.uses_this_machine:
            notes.append(
                f"GPUs of this machine: {gpus}, and resources.gpus is 0; to use one: --config 'resources={{gpus: 1}}'"
            )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


onstart:
    # The objects of the plan stay, so no search for garbage needs to read them.
    gc.freeze()
    gc.enable()
    # A full disk on the appliance's machine leaves this file, which stops further jobs until the next start.
    Path(PATHS.stop).unlink(missing_ok=True)
