"""Evaluate a model on the examples of a task, with lm-eval or by the loss.

    evaluate.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini \
        --output RUN_FOLDER/evaluation.json
    evaluate.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini --split selection \
        --output RUN_FOLDER/selection.json
    evaluate.py --checkpoint models/smollm2 --mask_path masks/smollm2/masks_sparsity50_unstructured.pt \
        --adapter RUN_FOLDER/adapter --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/before_merge.json

It writes metrics, standard errors, loss, the outcome of every example, seconds and peak memory. `overlap` is the share
of the examples that occur in the training rows too, or in the texts of --calibration (data/overlap.py).

With --split selection, the examples are those of prepare_selection.py, by which a study chooses among its trainings.
With --adapter, the model is the one before the merge. The change by the merge is the train-merge gap.

With --wikitext2 it also writes the token perplexity of the text: wikitext2_ppl_N if the text is WikiText-2's test
split, else local_text_ppl_N. With --probes it also evaluates the model on other tasks, into the field `probes`. With
--divergence it also measures how far the model is from the dense one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts.types import PositiveInt

from sparseft.command import Threads
from sparseft.data.overlap import Texts, shares_found, texts_of
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.selection_rows import SELECTION, read_selection
from sparseft.data.settings import OWN_CONTEXT, Perplexity
from sparseft.data.texts import each_document, read_documents, recorded_source
from sparseft.errors import InputError
from sparseft.evaluation.evaluation_record import BeforeMergeRecord, EvaluationRecord, SelectionRecord
from sparseft.grid import RUN_ID, WIKITEXT2, Run
from sparseft.lora.merge_record import check_model
from sparseft.records.record_file import write
from sparseft.section import refuse
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.record import claim_record
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.tasks.metrics import LOSS, perplexity_name
from sparseft.tasks.task import DOCUMENT_BREAK, SplitRows, Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def settings(config: Config, cell: Any, split: str = "", everything: bool = False) -> dict:
    """Return what decides an evaluation on the task, and with `everything` on the probes and the perplexity's text.

    Another number of threads changes the last bits."""
    common = {
        "run_id": RUN_ID.format(**vars(cell)),
        "task": cell.task,
        "batch_size": config.evaluation_batch_size,
        "threads": config.resources.threads,
        "split": split or None,
    }
    if not everything:
        return common
    text = {"wikitext2": WIKITEXT2, "context": config.perplexity.context} if config.perplexity else {}
    return {**common, "probes": targets.probe_places(config, cell.task), **text}


# Raise it when the results change.
VERSION = 1
# Among the sets whose overlap is searched, the name of the perplexity's text. No task has a blank in its name.
TEXT = "the text"


def run(
    *,
    checkpoint: Path,
    task: str,
    data_dir: Path,
    output: Path,
    split: Literal["validation", "selection"] = "validation",
    mask_path: Path | None = None,
    adapter: Path | None = None,
    wikitext2: Path | None = None,
    context: int | Literal["model"] = Perplexity().context,
    probes: tuple[str, ...] = (),
    divergence: Path | None = None,
    dense: Path | None = None,
    calibration: tuple[Path, ...] = (),
    run_id: str | None = None,
    batch_size: PositiveInt = 32,
    threads: Threads = 1,
) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder; with --adapter, that of the base
        task: name of the task
        data_dir: folder with the rows of the task
        output: the record
        split: the rows on which the model is evaluated
        mask_path: the mask that the adapter was trained with
        adapter: the adapter folder of train.py, for the model before the merge
        wikitext2: text of the perplexity: a .txt file, or a .jsonl file with a document per row
        context: tokens per window of the perplexity; model for the model's own context
        probes: more tasks to evaluate on, each as NAME:FOLDER with its data folder
        divergence: text that the dense model has sampled at temperature 1 (sample_text.py), for the divergence from it
        dense: folder of the dense model, with --divergence
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
        run_id: the run that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
    """
    from sparseft.checkpoints.checkpoint import Checkpoint
    from sparseft.evaluation.divergence import divergence_of, read_dense_windows
    from sparseft.evaluation.evaluate import evaluate, evaluate_probe, token_perplexity
    from sparseft.language_model.batches import Example
    from sparseft.language_model.hardware import peak_memory, start
    from sparseft.language_model.sampling import score_windows

    is_selection = split == SELECTION
    named = Run.parse(run_id) if run_id else None
    others = wikitext2 or probes or divergence or (adapter and (is_selection or calibration))
    refuse(
        {
            "--divergence and --dense belong together; give both, or none": bool(divergence) != bool(dense),
            "--adapter and --mask_path belong together; give both, or none": bool(adapter) != bool(mask_path),
            "--adapter and --split selection evaluate the task only; give one of them, without what is for other"
            " evaluations": (adapter or is_selection) and others,
            f"--task {task}: not the task of {run_id}; correct --task or --run_id": named and named.task != task,
        }
    )
    schema = BeforeMergeRecord if adapter else SelectionRecord if is_selection else EvaluationRecord
    folders = [data_dir, *(Path(probe.partition(":")[2]) for probe in probes)]
    files = [checkpoint, mask_path, adapter, *folders, wikitext2, divergence, dense, *calibration]
    claim_record(output, Path(schema.file_name).stem, files)
    start(threads)
    tasks = read_tasks(task, data_dir, probes)
    definition, rows, digests = tasks[task]
    # The worked examples come from the training rows.
    inputs: dict[str, Any] = {"data": digests["validation"], "train": digests["train"]}
    known_texts = [texts_of(definition, rows["train"])] if definition.is_trainable else []
    content: dict[str, Any] = {}
    if is_selection:
        known_texts.append(texts_of(definition, rows["validation"]))
        rows["validation"], digest = read_selection(data_dir, definition, digests)
        inputs |= {"data": digest, "validation": digests["validation"]}
        content["split"] = SELECTION
    # What is searched for among the known texts.
    sets = {name: texts_of(probe, probe_rows["validation"]) for name, (probe, probe_rows, _) in tasks.items()}
    probed = {name: read for name, read in tasks.items() if name != task}
    if wikitext2:
        documents, digest = read_documents(wikitext2)
        text = DOCUMENT_BREAK.join(documents)
        inputs["wikitext2"] = sha256_of_text(text)
        content["perplexity_source"] = recorded_source(wikitext2, digest)
        sets[TEXT] = Texts([text], is_one_text=True)
    if calibration:
        inputs["calibration"] = [sha256(path) for path in calibration]
        known_texts += [Texts(each_document(path), is_one_text=True) for path in calibration]
    shares = {} if adapter else shares_found(sets, known_texts)
    if divergence and dense:
        windows, inputs["divergence"] = read_dense_windows(divergence, Checkpoint(dense), calibration)
    model, tokenizer, sources = load(checkpoint, mask_path, adapter, named)
    begin = time.perf_counter()
    if wikitext2:
        context = model.config.max_position_embeddings if context == OWN_CONTEXT else context
        # The perplexity comes before the task, because it may be refused.
        perplexity = token_perplexity(model, tokenizer, text, context)
    scores = None
    if divergence:
        scores = score_windows(model, [Example(window["ids"], window["answer_start"]) for window in windows])
        content |= divergence_of(windows, scores)
        if [row.get("ids") for row in rows["validation"]] != [window["ids"] for window in windows]:
            scores = None
    content |= evaluate(model, tokenizer, definition, rows, batch_size, scores)
    if probed:
        content["probes"] = {
            name: evaluate_probe(model, tokenizer, probe, probe_rows, batch_size)
            | {"data_sha256": sha256s["validation"], "train_sha256": sha256s["train"], "overlap": shares[name]}
            for name, (probe, probe_rows, sha256s) in probed.items()
        }
    if wikitext2:
        content["metrics"][perplexity_name(inputs["wikitext2"], context)] = perplexity
        content["perplexity_overlap"] = shares[TEXT]
    if not adapter:
        content["overlap"] = shares[task]
    content |= {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    write(output, schema(run_id=run_id, **content, inputs=sources | inputs))


def read_tasks(name: str, folder: Path, probes: tuple[str, ...]) -> dict[str, tuple[Task, SplitRows, dict[str, str]]]:
    """Return the task and the probes by name, each with its rows by split and the sha256 of their files.

    Raises InputError if a task is named twice, or if a probe has no metric."""
    tasks: dict[str, tuple[Task, SplitRows, dict[str, str]]] = {}
    for place in (f"{name}:{folder}", *probes):
        probe, _, data_dir = place.partition(":")
        task = find_task(Path(data_dir), probe)
        if probe in tasks:
            raise InputError(f"--probes {probe}: the task is evaluated twice", "name each task once")
        if tasks and task.headline is LOSS:
            raise InputError(f"--probes {probe}: the task has no metric but its loss", "name a task of lm-eval")
        tasks[probe] = task, *read_splits(Path(data_dir), task)
    return tasks


def load(
    folder: Path, mask_path: Path | None, adapter: Path | None, run: Run | None
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return a checkpoint's model, or that of an adapter on it, with its tokenizer and the digests of its files.

    Raises InputError if a record beside the files, or the checkpoint's manifest, has other digests."""
    from sparseft.checkpoints.checkpoint import Checkpoint
    from sparseft.language_model.hardware import choose_device
    from sparseft.language_model.model import load_model
    from sparseft.language_model.placement import available_memory
    from sparseft.lora.adapted_model import trained_model
    from sparseft.masks.mask_file import read_checked_mask

    checkpoint = Checkpoint(folder)
    if adapter and mask_path:
        mask, mask_sha256 = read_checked_mask(mask_path, checkpoint, run)
        device, memory = choose_device(), available_memory(checkpoint)
        model, tokenizer, digest = trained_model(checkpoint, mask, mask_sha256, adapter, device, run, memory)
        return model, tokenizer, {"model": checkpoint.digest, "mask": mask_sha256, "adapter": digest}
    hashes = checkpoint.hashes()
    check_model(checkpoint.folder, hashes)
    checkpoint.check_manifest(hashes)
    return *load_model(checkpoint.folder, choose_device(), available_memory(checkpoint)), {"model": hashes}
