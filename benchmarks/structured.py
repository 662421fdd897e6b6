"""Compare what prunes channels: perplexity on two texts before any training, by method, by sparsity and by calibration
text.

    python benchmarks/structured.py models/smollm2 --hellaswag DIR --wikitext DIR --work DIR

Each DIR of data has train.jsonl and validation.jsonl: of HellaSwag in its original fields, and of WikiText-2 with a row
per page in the field `text`. The text of HellaSwag is the right story of each row. Every method calibrates on 16
windows of 512 tokens of the training rows, and its perplexity is that of windows of the validation rows. What is done
lies in --work, so that a stopped measurement continues. One row takes 2 to 4 minutes on one thread. --also FOLDER adds
a row for another model, such as one that was trained. The table is written to benchmarks/results/structured.md; with
--only_also it has dense and these folders, and is written to trained.md.
"""

import json
from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from bench import report
from sparseft.axes.grid import pass_files
from sparseft.axes.methods import get_method
from sparseft.axes.tasks import BY_NAME
from sparseft.axes.tasks.task import DOCUMENT_BREAK
from sparseft.common.command import run
from sparseft.data.rows import read_rows
from sparseft.data.settings import SELF, CalibrationText
from sparseft.data.texts import read_documents
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.batches import Example
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.sampling import sample_windows
from sparseft.pruning.calibration import ExampleCalibration
from sparseft.pruning.calibration_examples import text_examples
from sparseft.pruning.mask_generator import MaskPass, compute_masks
from sparseft.pruning.masks.mask_file import read_mask
from sparseft.pruning.masks.settings import Masks
from sparseft.pruning.smaller import remove_units
from sparseft.pruning.updates import UPDATES
from sparseft.storage.hashes import sha256
from sparseft.training.lora.merge import merge
from torch.nn.functional import cross_entropy

LENGTH, WINDOWS = 512, 16
# Windows of each text on which a perplexity is measured.
MEASURED = 32
TEXTS = ("WikiText-2", "HellaSwag")


class Case(NamedTuple):
    """Name a row of the table."""

    method: str
    percent: int
    text: str
    head_share: float = 0
    windows: int = WINDOWS


CHANNELS = [f"structured{name}" for name in ("_random", "", "_taylor", "_activation", "_wanda", "_flap")]
CASES = [
    *(Case("structured_obs", percent, "WikiText-2") for percent in (20, 30, 50)),
    *(Case("structured_obs", 20, text) for text in ("HellaSwag", SELF, "both")),
    *(Case("structured_obs", percent, text) for percent in (30, 50) for text in (SELF, "both")),
    *(Case(f"{method}{ending}", 20, "WikiText-2") for ending in ("", "_refit") for method in CHANNELS),
    Case("structured_obs", 20, "WikiText-2", head_share=1),
    Case("structured_taylor", 20, "WikiText-2", head_share=1),
    *(Case("layers_block_influence", percent, "WikiText-2") for percent in (20, 30)),
    *(Case("structured_obs", 20, text, windows=64) for text in ("both", SELF)),
]


def documents_of(folders: dict[str, Path], split: str) -> dict[str, list[str]]:
    """Return the documents of a split by text."""
    task = BY_NAME["hellaswag"]
    rows = read_rows(folders["HellaSwag"] / f"{split}.jsonl", task)
    stories = [task.prompt(row) + task.delimiter + task.answer(row) for row in rows]
    return {"WikiText-2": read_documents(folders["WikiText-2"] / f"{split}.jsonl")[0], "HellaSwag": stories}


def windows_of(checkpoint: Checkpoint, documents: dict[str, list[str]], text: str, number: int) -> list[Example]:
    """Return `number` windows of a text, of half of both, or of what the model samples itself."""
    if text == SELF:
        settings = CalibrationText(text=SELF, examples=number, length=LENGTH)
        return sample_windows(*load_model(checkpoint.folder, torch.device("cpu")), settings)
    names = TEXTS if text == "both" else [text]
    settings = CalibrationText(text="t.jsonl", examples=number // len(names), length=LENGTH)
    place = Path("the training rows")
    own = [text_examples(checkpoint, documents=documents[name], text=settings, place=place) for name in names]
    return list(chain.from_iterable(own))


def pruned(checkpoint: Checkpoint, case: Case, examples: list[Example], folder: Path) -> Path:
    """Prune a model as a case says, and return the folder of the result, which has the masked weights."""
    method = get_method(case.method)
    calibration = ExampleCalibration(lambda _: examples, {"task": "text"})
    settings = Masks(head_share=case.head_share)
    base = folder if method.has_pruned_base else None
    files = pass_files(folder, case.method, [f"{case.percent:02d}"], base, has_plot=False)
    masks = MaskPass(checkpoint, method, [case.percent], files, settings, calibration)
    if files.base:
        prune = remove_units if method.pattern.units else UPDATES[method.algorithm]
        prune(masks)
        return files.base
    compute_masks(masks)
    merge(checkpoint, read_mask(files.masks[0]), sha256(files.masks[0]), None, folder / "merged")
    return folder / "merged"


@torch.no_grad()
def perplexities(folder: Path, documents: dict[str, list[str]]) -> dict[str, float]:
    """Return the perplexity of a model on each text, over windows that are evenly spaced in it."""
    model, tokenizer = load_model(folder, torch.device("cpu"))
    values = {}
    for name, own in documents.items():
        ids = torch.tensor(tokenizer.encode(DOCUMENT_BREAK.join(own), verbose=False))
        windows = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
        windows = windows[torch.linspace(0, len(windows) - 1, MEASURED).long()]
        losses = [cross_entropy(model(window[None]).logits[0, :-1].float(), window[1:]) for window in windows]
        values[name] = float(torch.stack(losses).mean().exp())
    return values


def measured(model_path: Path, folders: dict[str, Path], work: Path) -> Iterator[tuple[Case | None, dict[str, float]]]:
    """Yield each case with its perplexities, that of the dense model first."""
    training, validation = (documents_of(folders, split) for split in ("train", "validation"))
    checkpoint = Checkpoint(model_path)
    windows = cache(partial(windows_of, checkpoint, training))
    for case in (None, *CASES):
        place = work / "-".join(map(str, case or ("dense",)))
        done = place / "perplexities.json"
        if not done.exists():
            place.mkdir(parents=True, exist_ok=True)
            folder = model_path
            if case:
                examples = windows(case.text, case.windows)
                folder = pruned(checkpoint, case, examples, place)
            done.write_text(json.dumps(perplexities(folder, validation)))
        values = json.loads(done.read_text())
        print(case or "dense", values, flush=True)
        yield case, values


def figures(values: dict[str, float], dense: dict[str, float]) -> list[str]:
    """Return the cells of perplexities, and of their multiples of the dense model's."""
    return [f"{values[text]:.2f}" for text in TEXTS] + [f"{values[text] / dense[text]:.2f}" for text in TEXTS]


def main(
    model_path: Path,
    *,
    hellaswag: Path,
    wikitext: Path,
    work: Path,
    also: tuple[Path, ...] = (),
    only_also: bool = False,
) -> None:
    """Measure, and report.

    Args:
        model_path: a prepared model folder
        hellaswag: folder of HellaSwag
        wikitext: folder of WikiText-2
        work: folder of the pruned models and of what is measured so far
        also: folders of other models with the same tokenizer
        only_also: measure dense and these folders only
    """
    torch.set_num_threads(1)
    folders = {"WikiText-2": wikitext, "HellaSwag": hellaswag}
    results = measured(model_path, folders, work)
    _, dense = next(results)
    rows = [["dense", "0", "", "", "", *figures(dense, dense)]]
    for case, values in () if only_also else results:
        own = [case.method, str(case.percent), f"{case.head_share:g}", case.text, str(case.windows)]
        rows.append([*own, *figures(values, dense)])
    validation = documents_of(folders, "validation")
    rows += [[str(place), "", "", "", "", *figures(perplexities(place, validation), dense)] for place in also]
    conditions = [
        f"{model_path.name}, {Checkpoint(model_path).config['dtype']}; windows of {LENGTH} tokens; perplexity over"
        f" {MEASURED} windows that are evenly spaced in the validation rows",
        "both: half of the windows from each text; self: what the dense model samples at temperature 1",
        "x: the perplexity as a multiple of that of the dense model. Only models that are named by a folder"
        " were trained",
    ]
    header = ["method", "%", "head_share", "calibrated on", "windows", *TEXTS, *(f"{text}, x" for text in TEXTS)]
    name, title = ("trained", "and after a") if only_also else ("structured", "any")
    report(name, f"Channels before {title} training, on two texts", conditions, header, rows)


if __name__ == "__main__":
    run(main)
