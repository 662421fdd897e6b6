"""Define the records of `snakemake ship`: shares.json, what must leave a model for a wish, and served.json, what each
candidate costs and says of the texts when it is served."""

from typing import ClassVar, Literal

from sparseft.serving.engine_record import EngineUse
from sparseft.storage.fields import Fraction, Positive, PositiveCount, field, setting
from sparseft.storage.record_file import RecordFile, RecordPart, kind


class Trial(RecordPart):
    """Hold a shape that was measured."""

    candidate: str = field("What leaves the model: channels, layers, both, or nothing of dense.")
    format: str = field("The GGUF format. Empty for the model's own.")
    percent: int = field("The share of the prunable weights that leaves.", "%")
    speed: Positive | None = field(
        "Generated tokens per second, as a multiple of the dense model's in the first format. Null for a wished size."
    )
    bytes: PositiveCount = field("The size of the files with the weights.", "bytes")
    reached: bool = field("Whether it fulfils the wish.")


class ServingRecord(RecordFile):
    """Say on what something was served."""

    engine: str = setting("The engine.")
    version: str = field("Its version.")
    threads: PositiveCount = field("The CPU threads of the engine.")
    device: str = field("The device.")


class SharesRecord(ServingRecord):
    """Record the search for the shares that must leave a model."""

    file_name: ClassVar[str] = "shares.json"
    record: Literal["shares"] = kind("shares")
    trials: list[Trial] = field("The shapes that were measured.", min_length=1)
    chosen: dict[str, list[int]] = field("The shares that fulfil the wish, by candidate. Each is pruned and trained.")


class Served(RecordPart):
    """Hold a candidate in one format."""

    name: str = field("The run, or the name of a model as it is.")
    format: str = field("The GGUF format. Empty for the model's own.")
    bytes: PositiveCount = field("The size of the files with the weights.", "bytes")
    digest: str = field("The sha256 of the weights as served.")
    uses: list[EngineUse] = field("The speeds and the memory of each repeat.", min_length=1)
    log_likelihoods: dict[str, list[float]] = field("Of each window, by text.", "nats")
    task: Fraction | None = field("The metric of the user's task. Null without one.", default=None)


class ServedRecord(ServingRecord):
    """Record the candidates as they are served."""

    file_name: ClassVar[str] = "served.json"
    record: Literal["served"] = kind("served")
    tokens: dict[str, list[PositiveCount]] = field("The tokens of each window after the first, by text.")
    dense_log_p: list[float] = field(
        "What the dense model in its own format says of each window of the text that it sampled.", "nats"
    )
    models: list[Served] = field("The candidates.", min_length=2)
