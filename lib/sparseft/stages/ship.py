"""Choose the model to serve from the measured candidates, and write it with its card.

    ship.py --model_path models/smollm2 --served results/ship/smollm2/served.json --speed 1.3 \
        --models models/smollm2 RUN_FOLDER/export --output_dir results/ship/smollm2/chosen

It writes frontier.csv, a row per candidate and format, frontier.png and findings.txt beside the folder of the chosen
model. Exits with 1 if no candidate reaches the wish. Then the chosen model is the nearest one.
"""

from pathlib import Path
from typing import Any

from sparseft.command import Flags, Threads
from sparseft.errors import InputError
from sparseft.export.settings import Export, Wish
from sparseft.export.ship_record import ServedRecord
from sparseft.planning.needs import Models, Needs, matrix_by_matrix
from sparseft.records.record_file import read_record_file
from sparseft.stages.find_shares import serving
from sparseft.storage.outputs import claim
from sparseft.study.config import Config

CARD = """
## As it is served

Measured with {engine} {version} on {device}. Speeds are multiples of that of the dense model as it is. Ratios of
perplexities are to the dense model after the same training. The texts were held out.

{table}

{sentences}
"""
# The columns of the card.
COLUMNS = ("candidate", "format", "bytes", "speed", "divergence")


def settings(config: Config, cell: Any) -> dict:
    """Return what decides the choice, and what writes the chosen file."""
    assert config.ship
    return {**serving(config), **config.ship.model_dump(include=set(Wish.model_fields))}


# Raise it when the results change.
VERSION = 1
KNOWN_BY = '"chosen": "'


def needs(config: Config, cell: Any, models: Models) -> Needs:
    """Return what writing the chosen model needs."""
    return matrix_by_matrix(models(cell.model))


def run(
    *,
    model_path: Path,
    served: Path,
    models: list[Path],
    output_dir: Path,
    wish: Flags[Wish] = Wish(),
    export: Flags[Export] = Export(),
    threads: Threads = 1,
) -> int:
    """Choose, and write the tables, the figure and the folder of the chosen model.

    Args:
        model_path: folder of the prepared dense model
        served: the measurements, served.json
        models: folders of the models that were measured
        output_dir: the folder of the chosen model
        threads: as in the measurements
    """
    from sparseft.analysis.frontier import draw, frontier, sentences
    from sparseft.analysis.tables import write_csv
    from sparseft.export.served import copy_chosen, name_of
    from sparseft.storage.atomic import atomic_file, atomic_folder, write_json

    wish.check()
    claim(output_dir, output_dir / "ship.json", KNOWN_BY, [served, model_path, *models])
    record = read_record_file(served, ServedRecord)
    table = frontier(record, wish, model_path.name)
    said = sentences(table, record, wish)
    best = table.iloc[0]
    folder = next(folder for folder in models if name_of(folder) == best["name"])
    digest = next(one.digest for one in record.models if (one.name, one.format) == (best["name"], best["format"]))
    with atomic_folder(output_dir, "ship.json", KNOWN_BY) as chosen:
        if copy_chosen(folder, chosen, export, best["format"]) != digest:
            raise InputError(f"{folder}: not the model that {served} measured", f"remove {served} and repeat")
        shown = table[[*COLUMNS, *table.filter(regex="_(perplexity|ratio)$")]].to_markdown(index=False, floatfmt=".4g")
        words = {"engine": record.engine, "version": record.version, "device": record.device}
        card = CARD.format(**words, table=shown, sentences="\n".join(said))
        with open(chosen / "README.md", "a", encoding="utf-8") as file:
            file.write(card)
        write_json(chosen / "ship.json", {"chosen": best["name"], "format": best["format"], "sha256": digest})
    place = output_dir.parent
    write_csv(table, place / "frontier.csv")
    with atomic_file(place / "frontier.png") as file:
        draw(table, wish, file)
    text = "".join(f"- {sentence}\n" for sentence in said)
    with atomic_file(place / "findings.txt") as file:
        file.write_text(text, encoding="utf-8")
    print(f"{text}The chosen model: {output_dir}/; every candidate: {place}/frontier.csv")
    return 0 if best["reaches"] else 1
