# What happens once, before the first job: the resources of this machine, and notes for the user.
from sparseft.planning.devices import visible_gpus
from sparseft.planning.start_notes import start_notes

if workflow.is_main_process:
    if QUEUED:
        # Without this, Snakemake would cut every job's threads to the cores of the login node.
        workflow.register_resource("_cores", None)
    GPUS = 0 if QUEUED else len(visible_gpus())
    for sentence in start_notes(STUDY, GPUS, is_queued=QUEUED):
        print(f"note: {sentence}", file=sys.stderr)
    if not QUEUED and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", max(GPUS, STUDY.resources.gpus))


onstart:
    # The objects of the plan stay, so no search for garbage needs to read them.
    gc.freeze()
    gc.enable()
    # A full disk on the appliance's machine leaves this file, which stops further jobs until the next start.
    Path(PATHS.stop).unlink(missing_ok=True)
