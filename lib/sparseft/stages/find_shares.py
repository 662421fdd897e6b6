"""Find how much must leave a model until it is served at a wished speed or size.

    find_shares.py --model_path models/smollm2 --speed 1.3 --output results/ship/smollm2/shares.json

Models of the shapes that pruning can leave are measured beside the dense one, before anything is pruned. Let nothing
else run meanwhile. If no shape fulfils the wish, the error says how near each candidate comes.
"""

from pathlib import Path
from typing import Any

from sparseft.common.command import Flags, Folder, Threads
from sparseft.common.errors import InputError
from sparseft.models.language_model.gpus import Gpus
from sparseft.serving.settings import Export, Wish
from sparseft.serving.ship_record import SharesRecord
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.config import Config
from sparseft.study.planning.needs import Job, Needs, SizesOf, served_tokens


def serving(config: Config) -> dict:
    """Return the wish, and how models are served."""
    exclude = {"license", "limit_seconds", "repeats", "load"}
    served = {"threads": config.resources.threads, **config.export.model_dump(exclude=exclude)}
    return {**served, **config.ship.model_dump(include=set(Wish.model_fields))}


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the shares."""
    return {**serving(config), "has_siblings": bool(config.ship.siblings)}


def effort(config: Config, wildcards: Any) -> dict:
    """Return the time limit of an engine with one model, and of a converter."""
    return {"limit_seconds": config.export.limit_seconds}


# Raise it when the results change.
VERSION = 1


def needs(config: Config, job: Job, sizes_of: SizesOf) -> Needs:
    """Return what the search needs. `ship` measures each candidate about as often."""
    model, wish = sizes_of(job.model), config.ship
    measured = (2 + len(wish.candidates) + len(wish.siblings)) * max(1, len(wish.formats))
    return Needs(
        model,
        # The model, and its GGUF file while it is written.
        device=2 * model.bytes,
        tokens=measured * config.export.repeats * served_tokens(config),
        gpus=config.resources.jobs_per_gpu,
    )


def run(
    *,
    model_path: Folder,
    output: Path,
    wish: Flags[Wish] = Wish(),
    export: Flags[Export] = Export(),
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
    has_siblings: bool = False,
) -> None:
    """Measure the shapes, and write the record.

    Args:
        model_path: folder of the prepared dense model
        output: the record, shares.json
        threads: CPU threads of the engine
        has_siblings: whether other models may fulfil the wish, so that it is no error if no shape does
    """
    import numpy as np

    from sparseft.axes.grid import DENSE
    from sparseft.models.checkpoints.checkpoint import Checkpoint
    from sparseft.serving.engines import find_engines
    from sparseft.serving.served import described_engine, find_shares, smallest

    wish.check()
    claim_record(output, "shares", [model_path])
    dense = Checkpoint(model_path)
    # Speed does not depend on what is read.
    tokens = np.random.default_rng(0).integers(dense.config["vocab_size"], size=(export.prompts, export.prompt_tokens))
    engine = find_engines(export, threads)[-1]
    served_by = described_engine(engine, gpus)
    trials = find_shares(dense, wish, engine, tokens.tolist())
    if not has_siblings and not any(trial.reached for trial in trials):
        key = "ship.speed" if wish.speed else "ship.bytes"
        tried = [
            f"{trial.candidate} {trial.percent} % {trial.format} has"
            f" {f'x {trial.speed:.2f}' if trial.speed else f'{trial.bytes:,} bytes'}"
            for trial in trials
            if trial.candidate != DENSE or not wish.candidates
        ]
        raise InputError(f"{key}: no candidate reaches it: {', '.join(tried)}", f"change {key}, or name more formats")
    write(output, SharesRecord(**served_by, trials=trials, chosen=smallest(trials)))
