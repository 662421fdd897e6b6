"""Put published or other numbers beside those of a study.

The file is a .csv with one header line and exactly these columns. A row needs a task, a sparsity, a metric and a value; an empty
field agrees with every model, method or mode.

    model, task, method, sparsity, mode, metric   as in grouped_summary.csv; the metric may be `value`, or any column there
    value                                         the number that is compared
    source                                        where it is from
"""

from io import StringIO
from pathlib import Path

import pandas as pd

from sparseft.errors import InputError
from sparseft.storage.reading import read_text

KEYS = ["model", "task", "method", "sparsity", "mode"]
COLUMNS = [*KEYS, "metric", "value", "source"]
TABLE = [*KEYS, *"training setting metric value low high baseline_value difference inside source".split()]
NEEDED = ["task", "sparsity", "metric", "value"]
REMEDY = f"give a .csv file with the columns {','.join(COLUMNS)}, as config/baseline.csv"


def read_baseline(path: Path) -> pd.DataFrame:
    """Return another project's numbers. Raises InputError, with the first fault, if the file is not as described above."""
    text = StringIO(read_text(path, REMEDY))
    try:
        table = pd.read_csv(text, dtype=str, keep_default_na=False, index_col=False)
    except ValueError as error:
        raise InputError(f"{path}: {error}", REMEDY) from None
    if wrong := sorted(set(table) ^ set(COLUMNS)):
        raise InputError(f"{path}: {'unknown' if wrong[0] in table else 'no'} column {wrong[0]}", REMEDY)
    table = table.apply(lambda column: column.str.strip())
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in ("sparsity", "value")}
    fits = {
        **{name: table[name] != "" for name in NEEDED},
        "sparsity": numbers["sparsity"].between(0, 100) & (numbers["sparsity"] % 1 == 0),
        "value": numbers["value"].between(-1e9, 1e9),
    }
    for name, good in fits.items():
        if not good.all():
            line = (~good).idxmax()
            raise InputError(f"{path}: line {line + 2}: {name} is {table.at[line, name]!r}", REMEDY)
    return table.assign(**numbers)[COLUMNS]


def beside(cells: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Return a row per number of the baseline and cell of ours that agree; a number without a cell has a row without ours.

    `inside` says whether the number lies in the interval of ours; it is empty for a metric without an interval."""
    rows = []
    for theirs in baseline.to_dict("records"):
        ours = cells[cells["chosen"]]
        for name in KEYS:
            ours = ours[ours[name] == theirs[name]] if theirs[name] != "" else ours
        metric = theirs["metric"]
        is_column = metric in ours.select_dtypes("number") and metric not in ours["metric"].unique()
        column = metric if is_column else "value"
        ours = ours[ours["metric"] == metric] if column == "value" and metric != "value" else ours
        own = {"baseline_value": theirs["value"], "source": theirs["source"], "metric": metric}
        rows += [_row(cell, column) | own for cell in ours.to_dict("records")] or [theirs | own | {"value": None}]
    table = pd.DataFrame(rows, columns=TABLE).astype({"value": float, "low": float, "high": float})
    inside = table["baseline_value"].between(table["low"], table["high"]).astype(object)
    return table.assign(difference=table["value"] - table["baseline_value"], inside=inside.where(table["low"].notna()))


def _row(cell: dict[str, object], column: str) -> dict[str, object]:
    """Return what a cell has in a column, with the ends of its interval if there are any."""
    ends = {end: cell.get(f"{column}_{end}") for end in ("low", "high")}
    return {name: cell[name] for name in (*KEYS, "training", "setting")} | {"value": cell[column]} | ends
