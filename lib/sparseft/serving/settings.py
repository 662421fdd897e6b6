"""The section that says what an exported run gets, and which engines are checked on it."""

from shutil import which
from typing import Annotated, Literal

from pydantic import Field

from sparseft.common.errors import InputError
from sparseft.common.section import Faults, Length, Positive, Section, Small, refuse

# The engines that serving/engine_process.py runs. transformers is the reference.
ENGINES = ("transformers", "vllm", LLAMA_CPP := "llama_cpp")
# The formats that llama.cpp's quantiser writes -> the weights of a row that share a scale.
QUANTIZED = {"q6_k": 256, "q5_k_m": 256, "q4_k_m": 256, "q4_0": 32}
ADVICE = "name the Python of an environment that has the engine (docs/smaller_models.md)"
# The GGUF formats, from the largest to the smallest.
Format = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
# What may leave a model that becomes smaller: its method, and whether some decoder layers leave first.
CANDIDATES = {
    "channels": ("structured_obs", False),
    "layers": ("layers_block_influence", False),
    "both": ("structured_obs", True),
}
# The names of the texts that the dense model has sampled, and of its answers to the user's prompts.
SAMPLED, ANSWERS = "sampled", "answers"
# The method by which these layers leave.
FIRST = CANDIDATES["layers"][0]
# The share of the decoder layers that leaves before channels do, in percent. A whole number of 8,
# 10, or 16 to 80 layers is near it (axes/patterns/pattern.py).
FIRST_LAYERS = 12
EnginePlace = Annotated[str, Field(pattern=rf"^(?:{'|'.join(ENGINES)}):.+$")]


class Export(Section):
    """Set what `export` and `engines.json` in a run's folder hold (docs/smaller_models.md). No study needs them. Ask
    for them by their names, or for all of them with the stage `engines`."""

    gguf: Format | None = None
    """Number format of a GGUF file beside the exported model. Null means that there is none. Those of fewer bits than
    q8_0 are written by the quantiser of the engine `llama_cpp`."""
    converter: str | None = Field(None, examples=["/opt/llama.cpp/bin/python /opt/llama.cpp/convert_hf_to_gguf.py"])
    """Command of llama.cpp's converter: a Python that has what it needs, and the path of convert_hf_to_gguf.py."""
    license: str | None = Field(None, examples=["cc-by-4.0"])
    """Identifier of the dense model's licence for the model card. Null means that of its README.md."""
    engines: list[EnginePlace] = Field([], examples=[["vllm:/envs/vllm/bin/python"]])
    """Engines to check, each as `NAME:PYTHON` with the Python that has it: transformers, vllm or llama_cpp.
    transformers is the reference, and is always measured, also if the list is empty. Unless you name its Python, it is
    the one that runs the study."""
    prompts: Positive = 8
    """Number of prompts, which are parts of the task's validation rows."""
    prompt_tokens: Length = 128
    """Tokens of each prompt."""
    new_tokens: Length = 32
    """Tokens that are generated after each prompt."""
    load: list[Small] = Field([1], examples=[[1, 8, 32]])
    """Numbers of requests at once whose speeds are measured. 1 is always measured. With fewer prompts, they are
    repeated."""
    repeats: Positive = 3
    """How often each engine runs the dense model and the run, one after the other, each time in a new process. Several
    repeats give an interval of the speedup."""
    limit_seconds: Positive = 3600
    """Seconds after which an engine with one model, or the converter, is ended, and the job fails."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the engines and the converter, and whether it is."""
        names = list(self.pythons)
        return {
            "gguf and converter need each other: set both, or leave both out": bool(self.gguf) != bool(self.converter),
            "llama_cpp reads a GGUF file: set gguf and converter": LLAMA_CPP in names and not self.gguf,
            f"gguf: {self.gguf} is written by llama.cpp's quantiser: name llama_cpp and its Python in engines": (
                self.gguf in QUANTIZED and LLAMA_CPP not in names
            ),
            f"engines names one twice: {', '.join(self.engines)}": len(names) < len(self.engines),
        }

    @property
    def pythons(self) -> dict[str, str]:
        """Return the Python of each engine by its name."""
        return dict(place.partition(":")[::2] for place in self.engines)

    def check(self, target: str) -> None:
        """Raise InputError if the Python of an engine, which `target` needs, is not there."""
        for name, python in self.pythons.items():
            if not which(python):
                raise InputError(f"{target}: export.engines: {name}:{python}: no such program", ADVICE)


class Wish(Section):
    """Set the speed or the size that a served model must have, and the shapes and formats that are tried for it."""

    speed: float | None = Field(None, gt=1, le=100, examples=[1.3])
    """Generated tokens per second, as a multiple of the dense model's in the first format."""
    bytes: float | None = Field(None, gt=0, examples=[100e6])
    """Largest size of the files with the weights."""
    candidates: list[Literal[*CANDIDATES]] = Field(list(CANDIDATES))  # type: ignore[valid-type]  # computed from the table
    """What may leave the model: channels of the MLP, decoder layers, or an eighth of the layers and then channels. The
    share is searched. The dense model is always among the candidates. An empty list prunes nothing."""
    formats: list[Format] = Field([], examples=[["q8_0", "q4_k_m"]])
    """GGUF formats in which every candidate is measured, with the engine llama_cpp. Name that in which you would serve
    the dense model first. Empty: the model's own number format, in transformers or vLLM."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the wish, and whether it is."""
        return {"speed and bytes are two wishes; set one": self.speed and self.bytes}

    def check(self) -> None:
        """Raise InputError if nothing is wished."""
        refuse({"ship: nothing is wished; set speed or bytes": not (self.speed or self.bytes)})


class Ship(Wish):
    """Set what `snakemake ship` decides: which file of a model to serve (docs/smaller_models.md).

    `export.engines` names the engine that serves it; without one it is transformers."""

    model: str = Field(examples=["smollm2"])
    """The model, by its name under `models:`."""
    mode: Literal["full_sparse_to_sparse", "sparse_to_sparse"] = "full_sparse_to_sparse"
    """How the candidates and the dense model are trained: all kept weights, which wins back more, or LoRA, which needs
    less memory."""
    texts: list[str] = Field([], examples=[["manuals.txt", "tickets.jsonl"]])
    """Texts of yours that the model will read: .jsonl files with the field `text`, or .txt files. Each is divided into
    a part for the calibration, one for the training, and one that is held out, by which the candidates are judged."""
    prompts: str | None = Field(None, examples=["prompts.jsonl"])
    """A .jsonl file of prompts of yours, in the field `text`. The dense model's answers to them are one more text.
    Without texts and prompts, the model samples a text."""
    siblings: list[str] = Field([], examples=[["smaller"]])
    """Other models under `models:`, such as the next smaller one of the family, which are measured too, untrained."""
    task: str | None = Field(None, examples=["hellaswag"])
    """A task on which each candidate is evaluated too: a name under `tasks:` or of lm-eval's."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the wish, and whether it is."""
        self.check()
        return super().contradictions()
