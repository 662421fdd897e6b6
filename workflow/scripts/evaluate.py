"""Evaluate a checkpoint on a task's validation examples, with lm-eval or by the loss.

    evaluate.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/evaluation.json

It writes metrics, standard errors, loss, the outcome of every example, seconds and peak memory. With --wikitext2 it also writes
the token perplexity of the text: wikitext2_ppl_N if the text is WikiText-2's test split, else local_text_ppl_N. With --probes it
also evaluates the model on other tasks, into the field `probes`. With --divergence it also measures how far the model is from the
dense one. `overlap` is the share of the examples that occur in the training rows too, or in the texts of --calibration
(data/overlap.py). Each probe has one, and the text has `perplexity_overlap`.
"""

import time
from pathlib import Path
from typing import Literal

from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.command import Flags, run
from sparseft.data.overlap import Texts, texts_of
from sparseft.data.prepared import find_task, read_splits
from sparseft.data.texts import read_documents, recorded_source
from sparseft.errors import InputError
from sparseft.evaluation.divergence import measure_divergence, read_dense_windows
from sparseft.evaluation.evaluate import evaluate, evaluate_probe, group_result, token_perplexity
from sparseft.evaluation.inputs import EvaluationFlags, begin, load_checked, overlaps
from sparseft.language_model.hardware import peak_memory
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import write
from sparseft.storage.hashes import sha256_of_text
from sparseft.study.sources import OWN_CONTEXT, Perplexity
from sparseft.tasks.lm_eval import is_group, members_of
from sparseft.tasks.metrics import LOSS, perplexity_name
from sparseft.tasks.task import DOCUMENT_BREAK

# Among the sets whose overlap is searched, the name of the perplexity's text. No task has a blank in its name.
TEXT = "the text"


def main(
    *,
    checkpoint: Path,
    flags: Flags[EvaluationFlags],
    wikitext2: Path | None = None,
    context: int | Literal["model"] = Perplexity().context,
    probes: tuple[str, ...] = (),
    calibration: tuple[Path, ...] = (),
    divergence: Path | None = None,
    dense: Path | None = None,
) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder
        wikitext2: text of the perplexity: a .txt file, or a .jsonl file with a document per row
        context: tokens per window of the perplexity; model for the model's own context
        probes: more tasks to evaluate on, each as NAME:FOLDER with its data folder
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
        divergence: text that the dense model has sampled at temperature 1 (sample_text.py), for the divergence from it
        dense: folder of the dense model, with --divergence
    """
    if bool(divergence) != bool(dense):
        raise InputError("--divergence and --dense belong together", "give both, or none")
    folders = {flags.task: flags.data_dir}
    folders |= {name: Path(folder) for name, _, folder in (probe.partition(":") for probe in probes)}
    if len(folders) != 1 + len(probes):
        raise InputError(f"--probes {' '.join(probes)}: a task is evaluated twice", "name each task once")
    begin(flags, "evaluation", [checkpoint, wikitext2, divergence, dense, *folders.values(), *calibration])
    start = time.perf_counter()
    tasks = {name: find_task(folder, name) for name, folder in folders.items()}
    prepared = {name: read_splits(folders[name], task) for name, task in tasks.items()}
    if is_group(tasks[flags.task].definition):
        tasks[flags.task].check_trainable()
    groups = {name: task for name, task in tasks.items() if is_group(task.definition)}
    for name, group in groups.items():
        del tasks[name]
        rows, digests = prepared.pop(name)
        for member, own_rows in members_of(group, rows):
            if member.name in tasks:
                raise InputError(f"--probes {name}: its task {member.name} is evaluated twice", "name it once")
            tasks[member.name], prepared[member.name] = member, (own_rows, digests)
    sets = {name: texts_of(task, prepared[name][0]["validation"]) for name, task in tasks.items()}
    task, (rows, digests) = tasks.pop(flags.task), prepared.pop(flags.task)
    for name, probe in tasks.items():
        if probe.headline is LOSS:
            raise InputError(f"--probes {name}: the task has no metric but its loss", "name a task of lm-eval")
    if wikitext2:
        documents, digest = read_documents(wikitext2)
        text = DOCUMENT_BREAK.join(documents)
        text_sha256, source = sha256_of_text(text), recorded_source(wikitext2, digest)
        sets[TEXT] = Texts([text], is_one_text=True)
    seen = [texts_of(task, rows["train"])] if task.is_trainable else []
    shares, calibration_sha256 = overlaps(sets, seen, calibration)
    if divergence and dense:
        windows, windows_sha256 = read_dense_windows(divergence, Checkpoint(dense), calibration)
    model, tokenizer, hashes = load_checked(checkpoint, flags)
    if context == OWN_CONTEXT:
        context = model.config.max_position_embeddings
    # The perplexity comes before the task, because it may be refused.
    perplexity = token_perplexity(model, tokenizer, text, context) if wikitext2 else None
    record = evaluate(model, tokenizer, task, rows, flags.batch_size) | {"overlap": shares[flags.task]}
    # The worked examples come from the training rows.
    inputs = {"model": hashes, "data": digests["validation"], "train": digests["train"]}
    if wikitext2:
        inputs["wikitext2"] = text_sha256
        record["metrics"][perplexity_name(text_sha256, context)] = perplexity
        record |= {"perplexity_source": source, "perplexity_overlap": shares[TEXT]}
    if calibration:
        inputs["calibration"] = calibration_sha256
    if divergence:
        record |= measure_divergence(model, windows)
        inputs["divergence"] = windows_sha256
    if tasks:
        record["probes"] = {
            name: evaluate_probe(model, tokenizer, tasks[name], probe_rows, flags.batch_size)
            | {"data_sha256": sha256["validation"], "train_sha256": sha256["train"], "overlap": shares[name]}
            for name, (probe_rows, sha256) in prepared.items()
        }
    if groups:
        record["groups"] = {name: group_result(group, record["probes"]) for name, group in groups.items()}
    cost = {"seconds": time.perf_counter() - start, "peak_memory_bytes": peak_memory(model.device)}
    write(flags.output, EvaluationRecord(run_id=flags.run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
