"""The backend cerebras: cerebras-pytorch on a CS-3, or on the package's own CPU backend."""

from typing import Annotated, Any, Literal

from pydantic import Field

from sparseft.axes.architectures import LLAMA, MISTRAL, MIXTRAL
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.common.section import Length, Positive, Section, refuse
from sparseft.training.settings import Training
from sparseft.training.trainers.backends.backend import Appliance, Backend, StudyConfig

# NAME=VALUE as cerebras.appliance.cluster_config._JobLabels accepts it.
_LABEL = r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
JobLabel = Annotated[str, Field(pattern=f"^{_LABEL}={_LABEL}$")]
# The keys of `training:` that only the backend torch has.
ONLY_TORCH = (
    "cache_weights",
    "distillation",
    "eval_every",
    "gradient_checkpointing",
    "recover_on",
    "shard_model",
)
# training.lr_scheduler_type -> the class of cerebras-pytorch, which goes from a first to a last rate.
DECAYS = {"cosine": "CosineDecayLR", "linear": "LinearLR"}
# A measurement on the CS-3 times at least so many steps, because the first ones are not typical.
LEAST_TIMED_STEPS = 100


class Placement(Section):
    """Set where and when a job on the appliance runs. No number of a result depends on it."""

    job_labels: list[JobLabel] = Field([], examples=[["study=sweep"]])
    """Labels of the job, NAME=VALUE, by which csctl finds it."""
    job_priority: Literal["p1", "p2", "p3"] = Field("p2", examples=["p3"])
    """Priority in the appliance's queue. p1 goes first."""
    job_time_sec: Positive | None = Field(None, examples=[14400])
    """Seconds until the appliance ends the job. Null means no limit."""
    mount_dirs: list[str] = Field([], examples=[["/home/me"]])
    """Folders that the appliance's workers must see."""
    python_paths: list[str] = Field([], examples=[["/home/me/SparseFT/lib"]])
    """Folders of packages that the appliance's workers import."""
    compile_dir: str | None = Field(None, min_length=1, examples=["compiled"])
    """Folder of compiled programs on the appliance's shared disk. Null means the appliance's own default."""


class CerebrasJob(Placement):
    """Set how one job of the backends `cerebras` and `modelzoo` runs.

    The names are those of cerebras-pytorch 2.10, ClusterConfig and csx.performance."""

    target: Literal["CSX", "CPU"] = Field("CSX", examples=["CPU"])
    """Where to train: on the CS-3 (CSX), or on the package's own CPU backend."""
    sequence_length: Length = Field(512, examples=[2048])
    """Tokens per example, padded on the right. A longer example is an error."""
    csx_micro_batch_size: Positive | Literal["auto"] = Field("auto", examples=[16])
    """Examples that the CS-3 works on at once, as csx.performance.micro_batch_size of cerebras-pytorch."""
    num_csx: Positive = Field(1, examples=[2])
    """CS-3 systems that share every step. Must divide the batch sizes."""

    @property
    def on_csx(self) -> bool:
        """Return whether trainings run on a CS-3."""
        return self.target == "CSX"

    @property
    def deciding(self) -> dict[str, Any]:
        """Return the keys that decide the numbers of a training."""
        return self.model_dump(include=CerebrasJob.model_fields.keys() - Placement.model_fields.keys())

    @property
    def placing(self) -> dict[str, Any]:
        """Return the keys that decide no number, without the labels, which run_on_appliance.py adds."""
        return self.model_dump(include=Placement.model_fields.keys() - {"job_labels"})

    @property
    def cluster(self) -> dict[str, Any]:
        """Return the arguments of cerebras-pytorch's ClusterConfig."""
        return self.model_dump(include={"num_csx", *Placement.model_fields} - {"compile_dir"})

    def device_record(self, batch_size: int) -> dict:
        """Return the part of a record that says where its numbers were made. `batch_size` is that of the training."""
        return {
            "device": "CSX" if self.on_csx else "CSX software backend on CPU",
            "processes": self.num_csx if self.on_csx else 1,
            "micro_batch_size": self.csx_micro_batch_size if self.on_csx else batch_size,
            "cerebras": self.deciding,
        }

    def check(self, training: Training, evaluation_batch_size: int = 0) -> None:
        """Raise InputError if Cerebras' backends cannot train a schedule, or evaluate in batches of this size."""
        sizes = {"batch_size": training.batch_size, "evaluation_batch_size": evaluation_batch_size}
        unknown = [f"training.{name} {value}" for name in ONLY_TORCH if (value := getattr(training, name))]
        odd = [f"{name} {size}" for name, size in sizes.items() if size % self.num_csx]
        refuse(
            {
                f"{', '.join(unknown)}: Cerebras' backends do not support it; leave it out, or set backend: torch": (
                    unknown
                ),
                f"cerebras.num_csx {self.num_csx} does not divide {', '.join(odd)}; choose a divisor": odd,
            }
        )


class Cerebras(CerebrasJob):
    """Set how the backends `cerebras` and `modelzoo` run, with the keys that only the rules read."""

    python: str = Field(".venv-cerebras/bin/python", examples=["/opt/cerebras/bin/python"])
    """Python of the environment that has cerebras-pytorch."""
    lock: str | None = Field("~/.sparseft_csx.lock", min_length=1, examples=["~/.my_csx.lock"])
    """Lock file that a job holds while it uses the CS-3, so that two workflows take turns. Null: no lock."""


def _check(config: StudyConfig) -> None:
    """Raise InputError if a study has pruned bases, modes or processes that Cerebras' backends lack, or if a schedule
    is impossible."""
    pruned = [name for name in config.grid.methods if get_method(name).has_pruned_base]
    modes = [mode.name for mode in map(get_mode, config.trained_modes) if mode.reconstructs or mode.starts_from]
    refuse(
        {
            f"grid.methods {pruned}, grid.modes {modes}: Cerebras' backends train new adapters or weights of a model,"
            " without a pruned base or a reconstruction; leave them out, or set backend: torch": pruned + modes,
            f"resources.processes {config.resources.processes}: Cerebras' backends train in one process; set it to 1,"
            " and cerebras.num_csx to the number of systems": config.resources.processes > 1,
        }
    )
    for task in config.grid.tasks:
        config.check_trainings(task, lambda schedule: config.cerebras.check(schedule, config.evaluation_batch_size))


CEREBRAS = Backend(
    "cerebras",
    check=_check,
    # Those that cerebras-pytorch has compiled.
    architectures=(LLAMA, MISTRAL, MIXTRAL),
    appliance=Appliance(
        # What tracing takes: fp32 weights, masks and the graph, and the program. Measured on LLaMA shapes of 83 and 185
        # million weights.
        host_memory=lambda weights: 9 * weights + 1_200_000_000,
        # The wait in the appliance's own queue counts.
        queue_minutes=24 * 60,
    ),
    evaluates=True,
)
