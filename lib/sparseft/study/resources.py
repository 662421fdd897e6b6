"""The section that says what one job needs."""

from pydantic import Field

from sparseft.common.section import Count, Faults, Positive, Section


class Resources(Section):
    """Set what one job needs: threads, processes, GPUs, memory and time."""

    threads: Positive = 1
    """CPU threads of a training, an evaluation or masks from examples. Another number changes the last bits."""
    processes: Positive = 1
    """Processes that share every step of a training (torchrun), one per GPU. Another number changes the last bits."""
    memory_mb: Positive | None = None
    """Memory that a job with the model requests from a cluster, in MB. Null means an estimate from the model's size.
    The second attempt requests twice as much, the third three times."""
    minutes: Positive | None = None
    """Time limit of such a job on a cluster, in minutes. Null and further attempts as for memory_mb."""
    gpus: Count = 0
    """GPUs of a training: 0, or as many as `processes`. A reconstruction or masks from examples use one of them."""
    gpu_memory_mb: Positive | None = Field(None, examples=[80_000])
    """Memory of one GPU, in MB. An evaluation uses as many of `gpus` as its weights need, and reads the decoder layers
    that fit on none from their files, for every batch. Null means one GPU, and what is free on it."""

    jobs_per_gpu: Positive = 1
    """Jobs that share a GPU of this machine, for small models. Each has an equal share of its memory. What measures a
    speed, `throughput` and `engines`, has a whole GPU."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the GPUs, and whether it is."""
        place = f"gpus {self.gpus}, processes {self.processes}"
        fault = f"{place}: each process uses one GPU; set gpus to {self.processes} or 0"
        shared = (
            f"jobs_per_gpu {self.jobs_per_gpu}: a training on several GPUs shares none; set jobs_per_gpu or gpus to 1"
        )
        return {fault: self.gpus not in (0, self.processes), shared: self.jobs_per_gpu > 1 and self.gpus > 1}
