"""Measure the candidates of `snakemake ship` as they are served: size, speed, and what they say of held-out texts.

    measure_candidates.py --models models/smollm2 RUN_FOLDER/export --output results/ship/smollm2/served.json \
        --divergence data/calibration_divergence-smollm2.jsonl --held_out data/calibration_shiptest-smollm2.jsonl

The first candidate is the dense model, whose tokens are counted. The candidates are measured in turn, so that a machine
that becomes slower slows all of them. Let nothing else run meanwhile.
"""

from pathlib import Path
from typing import Any

from sparseft.command import Flags, Threads
from sparseft.export.settings import Export, Wish
from sparseft.export.ship_record import ServedRecord
from sparseft.records.record_file import write
from sparseft.stages.find_shares import needs, serving  # noqa: F401
from sparseft.storage.record import claim_record
from sparseft.study.config import Config


def settings(config: Config, cell: Any) -> dict:
    """Return what decides the measurements."""
    assert config.ship
    return {**serving(config), "formats": config.ship.formats, "repeats": config.export.repeats}


# Raise it when the results change.
VERSION = 1


def run(
    *,
    models: list[Path],
    divergence: Path,
    held_out: Path | None = None,
    output: Path,
    wish: Flags[Wish] = Wish(),
    export: Flags[Export] = Export(),
    threads: Threads = 1,
) -> None:
    """Measure every candidate in every format, and write the record.

    Args:
        models: folders of models, the dense one first
        divergence: windows that the dense model has sampled
        held_out: windows of the texts that no candidate has seen
        output: the record, served.json
        threads: CPU threads of the engine
    """
    from sparseft.export.served import Server, measure_served, read_windows
    from sparseft.language_model.hardware import choose_device, device_name, start

    claim_record(output, "served", [divergence, held_out, *models])
    windows = read_windows(divergence, held_out)
    first = next(iter(windows.values()))
    prompts = [window.ids[: export.prompt_tokens] for window in first[: export.prompts]]
    server = Server(export, wish.formats, threads, prompts)
    start(threads)
    device = device_name(choose_device())
    server.check_formats(models[0])
    record = ServedRecord(
        engine=server.engine,
        version=server.version,
        threads=threads,
        device=device,
        tokens={name: [len(window.ids) - 1 for window in of_text] for name, of_text in windows.items()},
        dense_log_p=[window.log_p for window in windows["sampled"]],
        models=measure_served(models, windows, server),
    )
    write(output, record)
