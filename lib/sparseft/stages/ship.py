"""Measure the candidates of `snakemake ship` as they are served, choose one, and write it with its card.

    ship.py --models models/smollm2 RUN_FOLDER/export --divergence data/calibration_divergence-smollm2.jsonl \
        --held_out data/calibration_shiptest-smollm2.jsonl --speed 1.3 --output results/ship/smollm2/served.json \
        --output_dir results/ship/smollm2/chosen

The first candidate is the dense model, whose tokens are counted. The candidates are measured in turn, so that a machine
that becomes slower slows all of them. Let nothing else run meanwhile. Beside the folder of the chosen model it writes
frontier.csv, a row per candidate and format, frontier.png and findings.txt. Exits with 1 if no candidate reaches the
wish. Then the chosen model is the nearest one.
"""

from pathlib import Path
from typing import Any

from sparseft.common.command import Flags, Folder, Threads
from sparseft.models.language_model.gpus import Gpus
from sparseft.serving.settings import Export, Wish
from sparseft.serving.ship_record import ServedRecord
from sparseft.stages import find_shares
from sparseft.storage.outputs import claim
from sparseft.storage.record import claim_record
from sparseft.storage.record_file import write
from sparseft.study.config import Config

CARD = """
## As it is served

Measured with {engine} {version} on {device}. Speeds are multiples of that of the dense model as it is. Ratios of
perplexities are to the dense model after the same training. No candidate has seen the texts in training.

{table}

{sentences}
"""
# The columns of the card.
COLUMNS = ("candidate", "format", "bytes", "speed", "divergence")


def settings(config: Config, wildcards: Any) -> dict:
    """Return what decides the measurements, the choice, and the chosen file."""
    return {**find_shares.serving(config), "repeats": config.export.repeats}


# Raise it when the results change.
VERSION = 1
# ship.json, by which the folder of a chosen model is known, begins with it.
KNOWN_BY = '"chosen": "'
effort = find_shares.effort
# Each candidate is measured about as often as in the search.
needs = find_shares.needs


def run(
    *,
    models: list[Folder],
    divergence: Path,
    held_out: Path | None = None,
    output: Path,
    output_dir: Folder,
    wish: Flags[Wish] = Wish(),
    export: Flags[Export] = Export(),
    threads: Threads = 1,
    gpus: Flags[Gpus] = Gpus(),
) -> int:
    """Measure every candidate in every format, choose, and write the record, the table, the figure and the folder.

    Args:
        models: folders of models, the dense one first
        divergence: windows that the dense model has sampled
        held_out: windows of the texts that no candidate has seen
        output: the record of the measurements, served.json
        output_dir: the folder of the chosen model
        threads: CPU threads of the engine
    """
    from sparseft.analysis.frontier import draw, frontier, sentences
    from sparseft.analysis.tables import write_csv
    from sparseft.serving.engines import find_engines
    from sparseft.serving.served import by_text, copy_served, described_engine, measure_served, read_windows, serving
    from sparseft.serving.settings import SAMPLED
    from sparseft.storage.atomic import atomic_file, atomic_folder, write_json

    wish.check()
    inputs = [divergence, held_out, *models]
    claim_record(output, "served", inputs)
    claim(output_dir, output_dir / "ship.json", KNOWN_BY, inputs)
    windows = read_windows(divergence, held_out)
    sampled = by_text(windows, windows)[SAMPLED]
    engine = find_engines(export, threads)[-1]
    served_by = described_engine(engine, gpus)
    with serving(engine, wish.formats, models) as places:
        record = ServedRecord(
            **served_by,
            tokens=by_text(windows, [len(window["ids"]) - 1 for window in windows]),
            dense_log_p=[sum(window["log_p"]) for window in sampled],
            models=measure_served(places, windows, engine),
        )
        write(output, record)
        table = frontier(record, wish, models[0].name)
        findings = sentences(table, record, wish)
        # The table begins with the best model, and its index has the places of the models in the record.
        best = record.models[table.index[0]]
        (_, folder), place = list(places.items())[table.index[0]]
        with atomic_folder(output_dir, "ship.json", KNOWN_BY) as chosen:
            copy_served(folder, place, chosen)
            columns = table[[*COLUMNS, *table.filter(regex="_(perplexity|ratio)$")]]
            markdown = columns.to_markdown(index=False, floatfmt=".4g")
            with open(chosen / "README.md", "a", encoding="utf-8") as file:
                file.write(CARD.format(**served_by, table=markdown, sentences="\n".join(findings)))
            write_json(chosen / "ship.json", {"chosen": best.name, "format": best.format, "sha256": best.digest})
    write_csv(table, output_dir.parent / "frontier.csv")
    with atomic_file(output_dir.parent / "frontier.png") as file:
        draw(table, wish, file)
    text = "".join(f"- {sentence}\n" for sentence in findings)
    with atomic_file(output_dir.parent / "findings.txt") as file:
        file.write_text(text, encoding="utf-8")
    print(f"{text}The chosen model: {output_dir}/; every candidate: {output_dir.parent}/frontier.csv")
    return 0 if table["reaches"].iloc[0] else 1
