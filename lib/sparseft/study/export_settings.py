"""The section that says what an exported run gets, and which engines are checked on it."""

from shutil import which
from typing import Annotated, Literal

from pydantic import Field

from sparseft.errors import InputError
from sparseft.study.section import Length, Positive, Section

# The engines that export/engine_process.py runs. transformers is the reference.
ENGINES = ("transformers", "vllm", "llama_cpp")
ADVICE = "name the Python of an environment that has the engine (docs/smaller_models.md)"
EnginePlace = Annotated[str, Field(pattern=rf"^(?:{'|'.join(ENGINES)}):.+$")]


class Export(Section):
    """Set what `export` and `engines.json` in a run's folder hold (docs/smaller_models.md). No study needs them. Ask
    for them by their names, or for all of them with the stage `engines`."""

    gguf: Literal["f32", "f16", "bf16", "q8_0"] | None = None
    """Number format of a GGUF file beside the exported model. Null means that there is none."""
    converter: str | None = Field(None, examples=["/opt/llama.cpp/bin/python /opt/llama.cpp/convert_hf_to_gguf.py"])
    """Command of llama.cpp's converter: a Python that has what it needs, and the path of convert_hf_to_gguf.py."""
    engines: list[EnginePlace] = Field([], examples=[["vllm:/envs/vllm/bin/python"]])
    """Engines to check, each as `NAME:PYTHON` with the Python that has it: transformers, vllm or llama_cpp.
    transformers is the reference, and is always measured, also if the list is empty. Unless you name its Python, it is
    the one that runs the study."""
    prompts: Positive = 8
    """Number of prompts, which are parts of the task's validation rows. They run one after the other."""
    prompt_tokens: Length = 128
    """Tokens of each prompt."""
    new_tokens: Length = 32
    """Tokens that are generated after each prompt."""
    repeats: Positive = 3
    """How often each engine runs the dense model and the run, one after the other, each time in a new process. Several
    repeats give an interval of the speedup."""
    limit_seconds: Positive = 3600
    """Seconds after which an engine with one model, or the converter, is ended, and the job fails."""

    def contradictions(self) -> dict[str, object]:
        """Return what may be wrong with the engines and the converter, and whether it is."""
        names = list(self.pythons)
        return {
            "gguf and converter need each other: set both, or leave both out": bool(self.gguf) != bool(self.converter),
            "llama_cpp reads a GGUF file: set gguf and converter": "llama_cpp" in names and not self.gguf,
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
