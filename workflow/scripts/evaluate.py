"""Evaluate a checkpoint on a task's validation examples, with lm-eval or by the loss.

    evaluate.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/evaluation.json

It writes metrics, standard errors, loss, the outcome of every example, seconds and peak memory. With --wikitext2 it also writes
the token perplexity of the text: wikitext2_ppl_N if the text is WikiText-2's test split, else local_text_ppl_N. With --probes it
also evaluates the model on other tasks, into the field `probes`. `overlap` is the share of the examples that occur in the training
rows too, or in the texts of --calibration (tasks/overlap.py). Each probe has one, and the text has `perplexity_overlap`.
"""

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.errors import InputError, run_script
from sparseft.evaluation.evaluate import evaluate, evaluate_probe
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.language_model.hardware import choose_device, keep_freed_memory, limit_threads, peak_memory
from sparseft.language_model.model import load_model
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import write
from sparseft.storage.hashes import sha256_of_text
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.reading import read_text
from sparseft.storage.record import check_model, check_record
from sparseft.study.config import Perplexity, add_flags
from sparseft.study.grid import Run
from sparseft.study.section import parse_section
from sparseft.tasks.documents import each_document, recorded_source
from sparseft.tasks.metrics import LOSS
from sparseft.tasks.overlap import Texts, shares_found, texts_of
from sparseft.tasks.prepared import find_task, read_splits
from sparseft.tasks.task import Row, Task
from sparseft.tasks.wikitext2 import metric_name


@dataclass(frozen=True)
class Text:
    """Hold the text of a perplexity. `source` says where it comes from; None if that is unknown."""

    content: str
    sha256: str
    source: dict | None


@dataclass(frozen=True)
class Probe:
    """Hold another task that the model is evaluated on, with its rows and the sha256 of their files."""

    task: Task
    rows: dict[str, list[Row]]
    digests: dict[str, str]


def probe_place(text: str) -> tuple[str, Path]:
    """Return the task and the data folder that NAME:FOLDER names."""
    name, separator, folder = text.partition(":")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:FOLDER")
    return name, Path(folder)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="Hugging Face checkpoint folder")
    parser.add_argument("--run_id", help="the run that the record names")
    parser.add_argument("--task", required=True, help="name of the task")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with train.jsonl and validation.jsonl")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences per forward pass")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number changes the last bits")
    parser.add_argument("--wikitext2", type=Path, help="text of the perplexity, as prepare_wikitext2.py writes it")
    add_flags(parser, Perplexity, ["context"])
    parser.add_argument(
        "--probes",
        type=probe_place,
        nargs="+",
        default=[],
        metavar="NAME:FOLDER",
        help="more tasks to evaluate on, each with its data folder",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        default=[],
        help="texts on which the mask was calibrated or the layers were reconstructed, for the overlap",
    )
    parser.add_argument("--output", type=Path, required=True, help="the record, evaluation.json")
    return parser.parse_args()


def read_source_text(path: Path) -> Text:
    """Return a text, and its source if prepare_wikitext2.py wrote one beside it.

    Raises InputError if the file beside it describes another text."""
    content = read_text(path, "prepare it with prepare_wikitext2.py")
    digest = sha256_of_text(content)
    return Text(content, digest, recorded_source(path, digest))


def check_names(names: list[str]) -> None:
    """Raise InputError if a task is named twice: as the task and as a probe, or as two probes."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"--probes {twice[0]}: the task is evaluated twice", "name each task once")


def read_probe(name: str, folder: Path) -> Probe:
    """Return a probe that is prepared in a folder. Raises InputError if it has no metric but its loss."""
    task = find_task(folder, name)
    if task.headline is LOSS:
        raise InputError(f"--probes {name}: the task has no metric but its loss", "name a task of lm-eval")
    rows, digests = read_splits(folder, task)
    return Probe(task, rows, {"data_sha256": digests["validation"], "train_sha256": digests["train"]})


def overlaps(
    task: Task, rows: dict[str, list[Row]], probes: list[Probe], text: Text | None, calibration: list[Path]
) -> tuple[dict[str, float], list[str]]:
    """Return which share of each evaluated set the model has seen, and the sha256 of each text of its calibration.

    The names are `validation`, `perplexity` and `probe NAME`. A model has seen the training rows and these texts."""
    sets = {"validation": texts_of(task, rows["validation"])}
    sets |= {f"probe {probe.task.name}": texts_of(probe.task, probe.rows["validation"]) for probe in probes}
    if text:
        sets["perplexity"] = Texts([text.content], is_one_text=True)
    digests = [hashlib.sha256() for _ in calibration]
    seen = [Texts(each_document(*file), is_one_text=True) for file in zip(calibration, digests, strict=True)]
    if task.is_trainable:
        seen.append(texts_of(task, rows["train"]))
    return shares_found(sets, seen), [digest.hexdigest() for digest in digests]


def main() -> int:
    """Check the inputs, evaluate the model, and write the record."""
    args = parse_args()
    check_apart(
        [args.output],
        [args.checkpoint, args.data_dir, args.wikitext2, *(folder for _, folder in args.probes), *args.calibration],
    )
    check_record(args.output, "evaluation")
    if args.run_id is not None and Run.parse(args.run_id).task != args.task:
        raise InputError(f"--task {args.task}: not the task of {args.run_id}", "correct --task or --run_id")
    hold(args.output)
    context = parse_section(Perplexity, {"context": args.context}, "perplexity").context
    limit_threads(args.threads)
    keep_freed_memory()
    begin = time.perf_counter()
    task = find_task(args.data_dir, args.task)
    checkpoint = Checkpoint(args.checkpoint)
    rows, rows_sha256 = read_splits(args.data_dir, task)
    check_names([args.task, *(name for name, _ in args.probes)])
    probes = [read_probe(name, folder) for name, folder in args.probes]
    text = read_source_text(args.wikitext2) if args.wikitext2 else None
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    checkpoint.check_manifest(hashes)
    shares, calibration_sha256 = overlaps(task, rows, probes, text, args.calibration)
    model, tokenizer = load_model(checkpoint.folder, choose_device())
    # The perplexity comes before the task, because it may be refused.
    perplexity = token_perplexity(model, tokenizer, text.content, context) if text else None
    record = evaluate(model, tokenizer, task, rows, args.batch_size) | {"overlap": shares["validation"]}
    # The worked examples come from the training rows.
    inputs = {"model": hashes, "data": rows_sha256["validation"], "train": rows_sha256["train"]}
    if text:
        record["metrics"][metric_name(text.sha256, context)] = perplexity
        record["perplexity_source"] = text.source
        record["perplexity_overlap"] = shares["perplexity"]
        inputs["wikitext2"] = text.sha256
    if args.calibration:
        inputs["calibration"] = calibration_sha256
    if probes:
        record["probes"] = {
            probe.task.name: evaluate_probe(model, tokenizer, probe.task, probe.rows, args.batch_size)
            | probe.digests
            | {"overlap": shares[f"probe {probe.task.name}"]}
            for probe in probes
        }
    cost = {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    write(args.output, EvaluationRecord(run_id=args.run_id, **record, **cost, inputs=inputs))
    return 0


if __name__ == "__main__":
    run_script(main)
