"""Check that engines compute with an exported run what transformers does, and measure them beside the dense model.

    check_engines.py --run_id RUN --export_dir RUN_FOLDER/export --model_path models/smollm2 \
        --data_dir data/boolq_mini --engines vllm:/envs/vllm/bin/python --output RUN_FOLDER/engines.json

Each engine runs in a process of its own. Exits with 0 if all engines agree with transformers on both models, and with 1
if one does not. Times are CPU time on a CPU, and elapsed time on a GPU. Let nothing else run meanwhile, because it
would slow the memory.
"""

import sys
from pathlib import Path
from typing import Any

from sparseft.axes.grid import RUN_ID, Run
from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.data.overlap import texts_of
from sparseft.data.prepared import find_task, read_prepared
from sparseft.models.language_model.gpus import Gpus
from sparseft.serving.engine_record import EnginesRecord
from sparseft.serving.settings import Export
from sparseft.stages.find_shares import effort  # noqa: F401
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, lm_eval_batch_bytes, served_tokens


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the check of the engines."""
    return {
        "run_id": RUN_ID.format(**vars(wildcards)),
        "threads": config.resources.threads,
        **config.export.model_dump(exclude={"limit_seconds", "license"}),
    }


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what a check needs: the model that was pruned first, a batch of an evaluation, and a whole GPU."""
    model, export = sizes_of(config.original(job.model)), config.export
    batch = max(lm_eval_batch_bytes(config, model, task) for task in config.evaluated_tasks(job.task))
    return Needs(
        model,
        device=model.bytes + batch,
        # The dense model and the run.
        tokens=2 * export.repeats * (1 + len(export.engines)) * served_tokens(config),
        gpus=config.resources.jobs_per_gpu,
    )


def run(
    *,
    run_id: str,
    export_dir: Folder,
    model_path: Folder,
    data_dir: Path,
    output: Path,
    export: Flags[Export] = Export(),
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> int:
    """Measure every engine, write the record, and print a line per result.

    Args:
        run_id: the run
        export_dir: its exported folder
        model_path: folder of the prepared dense model
        data_dir: folder with validation.jsonl, from which the prompts are cut
        output: the record, engines.json
        threads: CPU threads of each engine
    """
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.models.language_model.hardware import choose_device, device_name, start
    from sparseft.models.language_model.model import load_tokenizer
    from sparseft.serving.engines import check_measured, find_engines, measure

    claim_record(output, "engines", [export_dir, model_path, data_dir])
    engines = find_engines(export, threads)
    manifest = check_measured(run_id, model_path, export_dir)
    inputs = {"dense": manifest.dense, "export": manifest.digest, "model": manifest.merged}
    task = find_task(data_dir, Run.parse(run_id).task)
    rows, inputs["data"] = read_prepared(data_dir / "validation.jsonl", task)
    tokenizer, length = load_tokenizer(export_dir), export.prompt_tokens
    ids = [token for part in texts_of(task, rows).parts for token in tokenizer(part).input_ids]
    prompts = [ids[begin : begin + length] for begin in range(0, export.prompts * length, length)]
    if len(prompts[-1]) < length:
        raise InputError(
            f"{data_dir}/validation.jsonl: its prompts have {len(ids)} tokens, {export.prompts * length} are needed",
            "lower export.prompts or export.prompt_tokens",
        )
    start(threads, gpus)
    # It locks the GPU that the engines use.
    device = device_name(choose_device())
    results = []
    for result in measure(engines, {"dense": model_path, "run": export_dir}, prompts):
        results.append(result)
        print(
            f"{result.engine}, {result.model}: {result.tokens_per_second:.1f} tokens/s ({result.clock} time),"
            f" {result.peak_memory_bytes / 1e6:.0f} MB; log-likelihoods {result.difference:.1e} apart:"
            f" {'agrees' if result.agrees else 'DIFFERS'}; perplexity {result.perplexity:.2f}",
            file=sys.stderr,
        )
    # Refuses files that somebody has changed meanwhile.
    check_measured(run_id, model_path, export_dir)
    record = EnginesRecord(
        run_id=run_id,
        passed=all(result.agrees for result in results),
        device=device,
        threads=threads,
        dtype=str(Checkpoint(export_dir).config.get("dtype")),
        results=results,
        **export.model_dump(include={"gguf", "prompts", "prompt_tokens", "new_tokens", "repeats"}),
        inputs=inputs,
    )
    write(output, record)
    return 0 if record.passed else 1
