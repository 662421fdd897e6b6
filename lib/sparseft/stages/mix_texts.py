"""Mix windows of several texts, on which importances calibrate.

    mix_texts.py --model_path models/smollm2 --text data/calibration_self-smollm2.jsonl my_text.jsonl --windows 32 16 \
        --task boolq --data_dir data/boolq --task_windows 16 --output data/calibration_taskmix-smollm2/boolq.jsonl

It writes a row per window, with its token ids and its text, for compute_masks.py --text. FILE.jsonl.json beside it has
the text's sha256, the model's digest and the parts.
"""

from pathlib import Path
from typing import Any

from cyclopts.types import NonNegativeInt, PositiveInt

from sparseft.axes.methods import TASK
from sparseft.common.command import Folder
from sparseft.common.errors import InputError
from sparseft.common.section import parse_section
from sparseft.data.prepared import find_task, read_prepared
from sparseft.data.settings import OWN_LENGTH, SHUFFLED, CalibrationText, Choice
from sparseft.data.texts import MODEL, claim_text
from sparseft.study import targets
from sparseft.study.config import Config


def settings(config: Config, wildcards: Any) -> dict:
    """Return the parts of a mixture in their order, the number of windows of each, and how they are chosen."""
    text = config.texts[wildcards.text]
    windows = text.windows_of_parts()
    examples = {"task": wildcards.task, "task_windows": windows.pop(TASK)} if wildcards.task else {}
    return {
        "text": targets.text_paths(config, windows, wildcards.model, TASK),
        "windows": list(windows.values()),
        **examples,
        **text.model_dump(include={"length", "seed", "choice"}),
    }


# Raise it when the results change.
VERSION = 1


def run(
    *,
    model_path: Folder,
    output: Path,
    text: list[Path],
    windows: list[PositiveInt],
    task: str | None = None,
    data_dir: Path | None = None,
    task_windows: PositiveInt | None = None,
    length: int = OWN_LENGTH,
    seed: NonNegativeInt = 0,
    choice: Choice = SHUFFLED,
) -> None:
    """Take the windows of each part, and write both files together.

    Args:
        model_path: Hugging Face checkpoint folder, whose tokenizer reads the texts
        output: the .jsonl file; its source is written beside it
        text: texts, .jsonl or .txt; of a text of sample_text.py, the first windows are taken as they are
        windows: number of windows of each text
        task: a task whose training examples are a part too
        data_dir: folder of the task's train.jsonl
        task_windows: number of the task's examples
        length: tokens per window of documents
        seed: seed that chooses windows and examples
        choice: how windows of documents are chosen; get_c4 as wanda's code
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.model import load_tokenizer
    from sparseft.models.language_model.sampling import write_windows
    from sparseft.pruning.calibration_examples import calibration_examples, read_text

    if len(windows) != len(text):
        raise InputError(f"--windows: {len(windows)} numbers for {len(text)} texts", "give one number per text")
    if len({bool(task), bool(data_dir), bool(task_windows)}) > 1:
        raise InputError("--task, --data_dir and --task_windows belong together", "give all three, or none")
    claim_text(output, [model_path, data_dir, *text])
    checkpoint = Checkpoint(model_path)
    examples, parts, task_source = [], [], {}
    chosen = {"length": length, "seed": seed, "choice": choice}
    for path, number in zip(text, windows, strict=True):
        keys = {"text": str(path), "examples": number, **chosen}
        examples_of, source = read_text(path, parse_section(CalibrationText, keys, "mix_texts.py"))
        examples += examples_of(checkpoint)
        parts.append(source | {"windows": number})
    if task and data_dir and task_windows:
        value = find_task(data_dir, task)
        rows, digest = read_prepared(data_dir / "train.jsonl", value)
        examples += calibration_examples(checkpoint, value, rows, task_windows, seed, "examples of the mixture")
        task_source = {"task": task, "train_sha256": digest, "task_windows": task_windows}
    source = {MODEL: checkpoint.digest, "parts": parts, **task_source, **chosen}
    write_windows(output, examples, load_tokenizer(model_path), source)
