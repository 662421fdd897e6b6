"""Evaluate a checkpoint on a task's validation examples, with lm-eval or by the loss.

    evaluate.py --checkpoint RUN_FOLDER/model_dir --task boolq_mini --data_dir data/boolq_mini --output RUN_FOLDER/evaluation.json

It writes metrics, standard errors, loss, the outcome of every example, seconds and peak memory. With --wikitext2 it also writes
the token perplexity of the text: wikitext2_ppl_N if the text is WikiText-2's test split, else local_text_ppl_N. With --probes it
also evaluates the model on other tasks, into the field `probes`. `overlap` is the share of the examples that occur in the training
rows too, or in the texts of --calibration (tasks/overlap.py). Each probe has one, and the text has `perplexity_overlap`.
"""

import time
from pathlib import Path

from sparseft.command import run
from sparseft.errors import InputError
from sparseft.evaluation.evaluate import evaluate, evaluate_probe
from sparseft.evaluation.inputs import load_checked, named_run, overlaps
from sparseft.evaluation.perplexity import token_perplexity
from sparseft.language_model.hardware import keep_freed_memory, limit_threads, peak_memory
from sparseft.records.evaluation_record import EvaluationRecord
from sparseft.records.record_file import write
from sparseft.storage.hashes import sha256_of_text
from sparseft.storage.locks import hold
from sparseft.storage.ownership import check_apart
from sparseft.storage.reading import read_text
from sparseft.storage.record import check_record
from sparseft.study.sources import Perplexity
from sparseft.tasks.documents import recorded_source
from sparseft.tasks.metrics import LOSS, perplexity_name
from sparseft.tasks.overlap import Texts, texts_of
from sparseft.tasks.prepared import find_task, read_splits


def main(
    *,
    checkpoint: Path,
    task: str,
    data_dir: Path,
    output: Path,
    run_id: str | None = None,
    batch_size: int = 32,
    threads: int = 1,
    wikitext2: Path | None = None,
    context: int = Perplexity().context,
    probes: list[str] | None = None,
    calibration: list[Path] | None = None,
) -> None:
    """Check the inputs, evaluate the model, and write the record.

    Args:
        checkpoint: Hugging Face checkpoint folder
        task: name of the task
        data_dir: folder with train.jsonl and validation.jsonl
        output: the record, evaluation.json
        run_id: the run that the record names
        batch_size: sequences per forward pass
        threads: CPU threads; another number changes the last bits
        wikitext2: text of the perplexity, as prepare_wikitext2.py writes it
        context: tokens per window of the perplexity
        probes: more tasks to evaluate on, each as NAME:FOLDER with its data folder
        calibration: texts on which the mask was calibrated or the layers were reconstructed, for the overlap
    """
    places = {name: Path(folder) for name, _, folder in (probe.partition(":") for probe in probes or [])}
    texts = calibration or []
    check_apart([output], [checkpoint, data_dir, wikitext2, *places.values(), *texts])
    check_record(output, "evaluation")
    named_run(run_id, task)
    if len({task, *places}) != 1 + len(probes or []):
        raise InputError(f"--probes {' '.join(probes)}: a task is evaluated twice", "name each task once")
    hold(output)
    limit_threads(threads)
    keep_freed_memory()
    begin = time.perf_counter()
    tasks = {name: find_task(folder, name) for name, folder in {task: data_dir, **places}.items()}
    prepared = {name: read_splits({task: data_dir, **places}[name], found) for name, found in tasks.items()}
    scored, (rows, digests) = tasks.pop(task), prepared.pop(task)
    for name, probe in tasks.items():
        if probe.headline is LOSS:
            raise InputError(f"--probes {name}: the task has no metric but its loss", "name a task of lm-eval")
    text = read_text(wikitext2, "prepare it with prepare_wikitext2.py") if wikitext2 else None
    text_sha256 = sha256_of_text(text) if text else None
    source = recorded_source(wikitext2, text_sha256) if text else None
    sets = {"validation": texts_of(scored, rows["validation"])}
    sets |= {f"probe {name}": texts_of(probe, prepared[name][0]["validation"]) for name, probe in tasks.items()}
    if text:
        sets["perplexity"] = Texts([text], is_one_text=True)
    seen = [texts_of(scored, rows["train"])] if scored.is_trainable else []
    shares, calibration_sha256 = overlaps(sets, seen, texts)
    model, tokenizer, hashes = load_checked(checkpoint)
    # The perplexity comes before the task, because it may be refused.
    perplexity = token_perplexity(model, tokenizer, text, context) if text else None
    record = evaluate(model, tokenizer, scored, rows, batch_size) | {"overlap": shares["validation"]}
    # The worked examples come from the training rows.
    inputs = {"model": hashes, "data": digests["validation"], "train": digests["train"]}
    if text:
        record["metrics"][perplexity_name(text_sha256, context)] = perplexity
        record |= {"perplexity_source": source, "perplexity_overlap": shares["perplexity"]}
        inputs["wikitext2"] = text_sha256
    if texts:
        inputs["calibration"] = calibration_sha256
    if tasks:
        record["probes"] = {
            name: evaluate_probe(model, tokenizer, probe, prepared[name][0], batch_size)
            | {
                f"{kind}_sha256": prepared[name][1][split]
                for kind, split in (("data", "validation"), ("train", "train"))
            }
            | {"overlap": shares[f"probe {name}"]}
            for name, probe in tasks.items()
        }
    cost = {"seconds": time.perf_counter() - begin, "peak_memory_bytes": peak_memory(model.device)}
    write(output, EvaluationRecord(run_id=run_id, **record, **cost, inputs=inputs))


if __name__ == "__main__":
    run(main)
