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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts.types import PositiveInt

from sparseft.axes.grid import RUN_ID, WIKITEXT2, Run
from sparseft.axes.tasks.metrics import LOSS, perplexity_name
from sparseft.axes.tasks.task import DOCUMENT_BREAK, Row, SplitRows, Task
from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.common.section import refuse
from sparseft.data.overlap import Texts, shares_found, texts_of
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.selection_rows import SELECTION, read_selection
from sparseft.data.settings import OWN_CONTEXT, Perplexity
from sparseft.data.texts import each_document, read_documents, recorded_source
from sparseft.evaluation.evaluation_record import BeforeMergeRecord, EvaluationRecord, SelectionRecord
from sparseft.models.language_model.gpus import Gpus
from sparseft.storage.hashes import sha256, sha256_of_text
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study import targets
from sparseft.study.config import Config
from sparseft.study.planning.needs import (
    LOGIT_ROWS,
    LOGITS,
    Job,
    Needs,
    SizesOf,
    lm_eval_batch_bytes,
    tokens_per_weight_read,
)
from sparseft.study.planning.sizes import perplexity_tokens, task_lengths
from sparseft.training.lora.merge_record import check_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def settings(config: Config, wildcards: Any, has_probes: bool = False) -> dict:
    """Return what decides an evaluation on the task, and with `has_probes` on the probes and the perplexity's text.

    Another number of threads changes the last bits."""
    common = {
        "run_id": RUN_ID.format(**vars(wildcards)),
        "task": wildcards.task,
        "batch_size": config.evaluation_batch_size,
        "threads": config.resources.threads,
        "split": getattr(wildcards, "split", None),
    }
    if not has_probes:
        return common
    text = {"wikitext2": WIKITEXT2, "context": config.perplexity.context} if config.perplexity else {}
    return {**common, "probes": targets.probe_places(config, wildcards.task), **text}


# Raise it when the results change.
VERSION = 1
# Among the sets whose overlap is searched, the name of the perplexity's text. No task has a blank in its name.
TEXT = "the text"
# A task, its rows by split, and the sha256 of their files.
TaskRows = tuple[Task, SplitRows, dict[str, str]]


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what an evaluation needs: the weights, and the largest batch. Those that leave a part out need no more."""
    model, window = sizes_of(job.model), 0
    if config.perplexity and job.split != SELECTION:
        context = config.perplexity.context
        window = model.config.get("max_position_embeddings", 0) if context == OWN_CONTEXT else context
    text = window * model.activation_bytes + min(window, LOGIT_ROWS) * LOGITS * model.config["vocab_size"]
    tokens = perplexity_tokens(config) + config.divergence_length * config.divergence_windows
    tasks = config.evaluated_tasks(job.task)
    for lengths in (task_lengths(config, task) for task in tasks):
        read = (max(1, lengths.choices) + lengths.few_shot) * lengths.mean
        # A batch generates its tokens together.
        generated = lengths.max_new_tokens * tokens_per_weight_read(config) / config.evaluation_batch_size
        tokens += lengths.rows[1] * (read + generated)
    batch = max(text, *(lm_eval_batch_bytes(config, model, task) for task in tasks))
    return Needs(model, device=batch, offloadable=model.bytes, tokens=tokens)


@dataclass(frozen=True)
class Examples:
    """Say what the model is evaluated on.

    Args:
        task: name of the task
        data_dir: folder with the rows of the task
        split: the rows on which the model is evaluated
        wikitext2: text of the perplexity: a .txt file, or a .jsonl file with a document per row
        context: tokens per window of the perplexity; model for the model's own context
        probes: more tasks to evaluate on, each as NAME:FOLDER with its data folder
        divergence: text that the dense model has sampled at temperature 1 (sample_text.py), for the divergence from it
        dense: folder of the dense model, with --divergence
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
    """

    task: str
    data_dir: Path
    split: Literal["validation", "selection"] = "validation"
    wikitext2: Path | None = None
    context: int | Literal["model"] = Perplexity().context
    probes: tuple[str, ...] = ()
    divergence: Path | None = None
    dense: Folder | None = None
    calibration: tuple[Path, ...] = ()


def run(
    *,
    checkpoint: Folder,
    output: Path,
    examples: Flags[Examples],
    mask_path: Path | None = None,
    adapter: Path | None = None,
    run_id: str | None = None,
    batch_size: PositiveInt = 32,
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder; with --adapter, that of the base
        output: the record
        mask_path: the mask that the adapter was trained with
        adapter: the adapter folder of train.py, for the model before the merge
        run_id: the run that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
    """
    from sparseft.models.language_model.hardware import peak_memory, start

    is_selection = examples.split == SELECTION
    named = Run.parse(run_id) if run_id else None
    beside_adapter = adapter and (is_selection or examples.calibration)
    others = examples.wikitext2 or examples.probes or examples.divergence or beside_adapter
    refuse(
        {
            "--divergence and --dense belong together; give both, or none": (
                bool(examples.divergence) != bool(examples.dense)
            ),
            "--adapter and --mask_path belong together; give both, or none": bool(adapter) != bool(mask_path),
            "--adapter and --split selection evaluate the task only; give one of them, without what is for other"
            " evaluations": (adapter or is_selection) and others,
            f"--task {examples.task}: not the task of {run_id}; correct --task or --run_id": (
                named and named.task != examples.task
            ),
        }
    )
    schema = BeforeMergeRecord if adapter else SelectionRecord if is_selection else EvaluationRecord
    folders = [examples.data_dir, *(Path(probe.partition(":")[2]) for probe in examples.probes)]
    texts = [examples.wikitext2, examples.divergence, examples.dense, *examples.calibration]
    claim_record(output, Path(schema.file_name).stem, [checkpoint, mask_path, adapter, *folders, *texts])
    start(threads, gpus)
    inputs = read(examples, is_searched=not adapter)
    model, tokenizer, sources = load(checkpoint, mask_path, adapter, named)
    begin = time.perf_counter()
    content = measure(model, tokenizer, inputs, examples.context, batch_size)
    content |= {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    write(output, schema(run_id=run_id, **inputs.described, **content, inputs=sources | inputs.digests))


@dataclass
class Inputs:
    """Hold what was read for an evaluation."""

    task: Task
    # By split. The rows of `validation` are those on which the model is evaluated.
    rows: SplitRows
    probes: dict[str, TaskRows]
    # The inputs of the record, beside the model.
    digests: dict[str, Any]
    # The fields of the record that say what was read.
    described: dict[str, Any] = field(default_factory=dict)
    # The text of the perplexity, and the dense model's windows for the divergence.
    text: str | None = None
    windows: list[Row] | None = None
    # Task, or TEXT -> the share of it that occurs in what the model has seen. Empty if it is not searched.
    shares: dict[str, float] = field(default_factory=dict)


def read(examples: Examples, is_searched: bool) -> Inputs:
    """Read what the model is evaluated on, and search it for what the model has seen.

    Raises InputError if a task is named twice, or if a probe has no metric."""
    from sparseft.evaluation.divergence import read_dense_windows
    from sparseft.models.checkpoints.checkpoint import Checkpoint

    tasks: dict[str, TaskRows] = {}
    for place in (f"{examples.task}:{examples.data_dir}", *examples.probes):
        name, _, folder = place.partition(":")
        task = find_task(Path(folder), name)
        if name in tasks:
            raise InputError(f"--probes {name}: the task is evaluated twice", "name each task once")
        if tasks and task.headline is LOSS:
            raise InputError(f"--probes {name}: the task has no metric but its loss", "name a task of lm-eval")
        tasks[name] = task, *read_splits(Path(folder), task)
    task, rows, digests = tasks.pop(examples.task)
    # The few-shot examples come from the training rows.
    inputs = Inputs(task, rows, tasks, {"data": digests["validation"], "train": digests["train"]})
    seen = [texts_of(task, rows["train"])] if task.is_trainable else []
    if examples.split == SELECTION:
        seen.append(texts_of(task, rows["validation"]))
        rows["validation"], digest = read_selection(examples.data_dir, task, digests)
        inputs.digests |= {"data": digest, "validation": digests["validation"]}
        inputs.described["split"] = SELECTION
    if examples.wikitext2:
        documents, digest = read_documents(examples.wikitext2)
        inputs.text = DOCUMENT_BREAK.join(documents)
        inputs.digests["wikitext2"] = sha256_of_text(inputs.text)
        inputs.described["perplexity_source"] = recorded_source(examples.wikitext2, digest)
    if examples.calibration:
        inputs.digests["calibration"] = [sha256(path) for path in examples.calibration]
        seen += [Texts(each_document(path), is_one_text=True) for path in examples.calibration]
    if is_searched:
        sets = {name: texts_of(probe, probe_rows["validation"]) for name, (probe, probe_rows, _) in tasks.items()}
        sets[task.name] = texts_of(task, rows["validation"])
        if inputs.text is not None:
            sets[TEXT] = Texts([inputs.text], is_one_text=True)
        inputs.shares = shares_found(sets, seen)
    if examples.divergence and examples.dense:
        dense = Checkpoint(examples.dense)
        inputs.windows, inputs.digests["divergence"] = read_dense_windows(
            examples.divergence, dense, examples.calibration
        )
    return inputs


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Inputs,
    context: int | Literal["model"],
    batch_size: int,
) -> dict[str, Any]:
    """Return what the model scores on the task, the probes and the texts, as fields of the record."""
    from sparseft.evaluation.divergence import divergence_of
    from sparseft.evaluation.evaluate import evaluate, evaluate_probe, token_perplexity
    from sparseft.models.language_model.batches import Example
    from sparseft.models.language_model.sampling import score_windows

    windows, scores, is_task = inputs.windows, None, False
    if windows:
        scores = score_windows(model, [Example(window["ids"], window["answer_start"]) for window in windows])
        # The windows of the divergence may be the rows of the task, which are then not scored again.
        is_task = [window["ids"] for window in windows] == [row.get("ids") for row in inputs.rows["validation"]]
    perplexity = {}
    if inputs.text is not None:
        context = model.config.max_position_embeddings if context == OWN_CONTEXT else context
        name = perplexity_name(inputs.digests["wikitext2"], context)
        # The perplexity comes before the task, because it may be refused.
        perplexity[name] = token_perplexity(model, tokenizer, inputs.text, context)
    content = evaluate(model, tokenizer, inputs.task, inputs.rows, batch_size, scores if is_task else None)
    content["metrics"] |= perplexity
    if inputs.probes:
        content["probes"] = {
            name: evaluate_probe(model, tokenizer, probe, rows, batch_size)
            | {"data_sha256": sha256s["validation"], "train_sha256": sha256s["train"], "overlap": inputs.shares[name]}
            for name, (probe, rows, sha256s) in inputs.probes.items()
        }
    shares = {"overlap": inputs.shares.get(inputs.task.name), "perplexity_overlap": inputs.shares.get(TEXT)}
    content |= {name: share for name, share in shares.items() if share is not None}
    return content | (divergence_of(windows, scores) if windows and scores else {})


def load(
    folder: Path, mask_path: Path | None, adapter: Path | None, run: Run | None
) -> tuple[nn.Module, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return a checkpoint's model, or that of an adapter on it, with its tokenizer and the digests of its files.

    Raises InputError if a record beside the files, or the checkpoint's manifest, has other digests."""
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.hardware import choose_device
    from sparseft.models.language_model.model import load_model
    from sparseft.models.language_model.placement import available_memory
    from sparseft.pruning.masks.mask_file import read_checked_mask
    from sparseft.training.lora.adapted_model import trained_model

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
