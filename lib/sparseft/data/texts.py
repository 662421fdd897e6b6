"""Read the documents of texts, and write a text with its source beside it.

A text is a .jsonl file with one document per row in the field `text`, or a .txt file, which is one document. A prepared
text has FILE.json beside it, with the text's sha256 and where it comes from. A text of windows also has the token ids
of each row, and the file beside it names the model whose ids they are.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sparseft.axes.methods import SELF
from sparseft.axes.tasks.task import DOCUMENT
from sparseft.common.errors import InputError
from sparseft.common.section import parse_section
from sparseft.data.rows import each_row
from sparseft.data.settings import CalibrationText, Choice
from sparseft.storage.atomic import atomic_files, write_json
from sparseft.storage.hashes import sha256
from sparseft.storage.locks import hold
from sparseft.storage.outputs import check_apart, check_ours
from sparseft.storage.reading import read_json, read_text

# The key of the source of such a text that has the digest of the model.
MODEL = "model"
# The key by which the file with the source is known (storage/outputs.py).
KNOWN_BY = '\n  "source": '


def read_documents(path: Path) -> tuple[list[str], str]:
    """Return the documents of a file, and its sha256. Raises InputError as `each_document` does, or if all are
    blank."""
    documents = list(each_document(path))
    if not any(map(str.strip, documents)):
        raise InputError(f"{path}: holds no text", "write one document per line as JSON, with the field text")
    return documents, sha256(path)


def each_document(path: Path) -> Iterator[str]:
    """Yield the documents of a file one by one.

    Raises InputError if it cannot be read, or if a row of a .jsonl file has no text."""
    if path.suffix == ".txt":
        # A byte order mark does not belong to the text.
        yield read_text(path, "prepare the text, or correct the path").removeprefix("\ufeff")
    else:
        yield from (row["text"] for row in each_row(path, DOCUMENT))


def claim_text(output: Path, inputs: Iterable[Path | None], endings: tuple[str, ...] = (".jsonl",)) -> None:
    """Hold the place of a prepared text. Raises InputError if it would replace an input or a file of somebody else.

    Also raises it if the name has none of the endings, because the ending says how the text is read."""
    if output.suffix not in endings:
        raise InputError(
            f"--output {output}: not a {' or '.join(endings)} file", f"write its name with {endings[0]} at the end"
        )
    outputs = [output, source_file(output)]
    check_ours(outputs[1], KNOWN_BY, *outputs)
    check_apart(outputs, inputs)
    hold(output)


def write_source_text(path: Path, parts: Iterable[str], source: dict) -> None:
    """Write a text in parts, and its source beside it. Both files appear, or none."""
    with atomic_files(source_file(path), KNOWN_BY) as folder:
        text_file = folder / path.name
        with open(text_file, "wb") as file:
            file.writelines(part.encode() for part in parts)
        write_json(folder / source_file(path).name, {"source": source, "sha256": sha256(text_file)})


def recorded_source(path: Path, digest: str) -> dict | None:
    """Return the source of a text whose sha256 is `digest`, from the file beside it; None without that file.

    Raises InputError if that file describes another text."""
    file = source_file(path)
    if not file.is_file():
        return None
    remedy = f"prepare it again, or remove {file}"
    recorded = read_json(file, remedy)
    if recorded.get("sha256") != digest:
        raise InputError(f"{path}: not the text that {file} describes", remedy)
    return recorded.get("source")


def has_windows(path: Path) -> bool:
    """Return whether a text is one of windows, by the file beside it."""
    file = source_file(path)
    return file.is_file() and MODEL in (read_json(file).get("source") or {})


def source_file(path: Path) -> Path:
    """Return the place of a text's source, beside the text."""
    return Path(f"{path}.json")


def given_text(
    path: Path, place: str, *, examples: int, seed: int, length: int | None, choice: Choice | None
) -> CalibrationText:
    """Return the description of a prepared text from the flags of a script. Raises InputError with `place` if a flag is
    wrong.

    A text of windows has no others, so only their number can be chosen."""
    chosen = {name: value for name, value in (("length", length), ("choice", choice)) if value is not None}
    if has_windows(path):
        if seed or chosen:
            what = f"{path}: its windows are fixed, and only --calibration_examples chooses among them"
            raise InputError(what, "leave --calibration_length, --calibration_seed and --calibration_choice out")
        return CalibrationText(text=SELF, examples=examples)
    return parse_section(CalibrationText, {"text": str(path), "examples": examples, "seed": seed, **chosen}, place)
