"""Define engines.json: what each engine computed with an exported run and with its dense model, how fast, and in how
much memory.

A prompt runs alone, so speeds are those of one request at a time, but those in `loads`.
"""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from sparseft.storage.fields import CpuShare, Fraction, NonNegative, Positive, PositiveCount, field, setting
from sparseft.storage.record_file import RecordPart, RunRecord, kind


class LoadSpeed(RecordPart):
    """Hold how fast an engine is with some requests at once."""

    at_once: PositiveCount = setting("The number of requests at once.")
    prompt_tokens_per_second: Positive = field("Tokens of prompts that are read per second.", "tokens/s")
    decode_tokens_per_second: Positive | None = field(
        "Tokens after the first that are generated per second. Null if they took too short a time.", "tokens/s"
    )


class EngineUse(RecordPart):
    """Hold what an engine's process took, and how its time was measured."""

    tokens_per_second: Positive = field("Generated tokens per second, with the time of the prompt.", "tokens/s")
    first_token_seconds: Positive = field("Time from a prompt to its first token. Median of the prompts.", "s")
    loads: list[LoadSpeed] = field("The speeds with 1 request and with more at once.", default=[])

    clock: Literal["CPU", "wall"] = field(
        "CPU: times are CPU time per thread, so that waiting for a busy CPU does not count. wall: elapsed"
        " time, on a GPU."
    )
    cpu_share: CpuShare = field("The share of its threads' time that the CPU gave it.", "fraction")
    peak_memory_bytes: PositiveCount = field("The largest memory of the process.", "bytes")
    peak_memory_kind: str = field("What the peak memory counts.")


class EngineResult(EngineUse):
    """Hold what one engine computed with one of the two models, and what it took."""

    engine: str = setting("The name of the engine.")
    version: str = field("Its version.")
    model: str = field("dense: the dense model. run: the exported one.")
    weight_bytes: PositiveCount | None = field("The size of the files with the weights.", "bytes", default=None)
    same_tokens: Fraction = field("The share of the greedy tokens before the first that differs.", "fraction")
    difference: NonNegative = field("Mean difference of a token's log-likelihood from the reference.", "nats")
    perplexity_difference: NonNegative = field("Difference of the log perplexity from the reference.", "nats")
    bound: Positive = field("The largest of such differences that agrees.", "nats")
    perplexity: NonNegative | None = field("The perplexity of the prompts' tokens after the first.", default=None)

    @property
    def agrees(self) -> bool:
        """Return whether the engine computed what transformers did. Equal tokens prove nothing, because they hide a
        scale."""
        return max(self.difference, self.perplexity_difference) <= self.bound


class EngineInputs(RecordPart):
    """Hold the digests of what was measured."""

    dense: str = field("The digest of the dense model.")
    export: str = field("The digest of the exported model.")
    model: dict[str, str] = field("The sha256 of each file of the merged model.")
    data: str = field("The sha256 of the rows of the prompts.")


class EnginesRecord(RunRecord):
    """Record the check of the engines."""

    file_name: ClassVar[str] = "engines.json"
    record: Literal["engines"] = kind("engines")
    passed: bool = field("Whether every engine agrees with transformers on both models.")
    device: str = field("The device of the reference.")
    threads: PositiveCount = field("The CPU threads of each engine.")
    dtype: str = field("The number format of the weights.")
    gguf: str | None = field("The number format of the GGUF files. Null without one.")
    prompts: PositiveCount = field("The number of prompts.")
    prompt_tokens: PositiveCount = field("The tokens of each prompt.", "tokens")
    new_tokens: PositiveCount = field("The tokens that are generated after each.", "tokens")
    repeats: PositiveCount = field("How often each engine ran each model.")
    results: list[EngineResult] = field("The result of each repeat, engine and model.", min_length=1)
    inputs: EngineInputs = field("The digests of what was measured.")

    @property
    def differing(self) -> list[str]:
        """Return the engines that do not agree with transformers on both models in every repeat."""
        agreed: dict[str, dict[str, list[bool]]] = {one.engine: {"dense": [], "run": []} for one in self.results}
        for one in self.results:
            agreed[one.engine].setdefault(one.model, []).append(one.agrees)
        return [engine for engine, of in agreed.items() if any(own != [True] * self.repeats for own in of.values())]

    @model_validator(mode="after")
    def _has_times_of_one_clock(self) -> Self:
        """Refuse times of an engine that cannot be compared."""
        clocks = {(one.engine, one.clock) for one in self.results}
        if len(clocks) > len(dict(clocks)):
            raise ValueError("results: an engine has CPU times and wall times, which cannot be compared")
        return self
