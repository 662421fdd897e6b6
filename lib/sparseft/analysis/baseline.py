"""Put published or other numbers beside those of a study.

The file is a .csv with one header line and the columns of a Number. The last two may be missing. Each number gets a
verdict:

    reproduced          it lies in our interval, or no further from our value than its tolerance
    sources disagree    it is not reproduced, but the file has several values of the same cell and metric, and ours
                        reproduces another one or lies between them
    not reproduced      neither of them
    not run             the study has no cell with its values, or not this number of it
"""

import csv
from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from sparseft.common.errors import InputError
from sparseft.common.section import Section, first_fault
from sparseft.storage.reading import read_text

KEYS = ["model", "task", "method", "sparsity", "mode"]
TABLE = [*KEYS, *"training setting metric value low high baseline_value difference inside tolerance".split()]
TABLE += ["reproduction", "source", "note"]


class Number(Section, str_strip_whitespace=True):
    """Describe a number from elsewhere. An empty field agrees with every model, method or mode.

    The metric may be `value`, or any column of grouped_summary.csv."""

    model: str
    task: str = Field(min_length=1)
    method: str
    sparsity: int = Field(ge=0, le=100)
    mode: str
    metric: str = Field(min_length=1)
    value: float
    source: str
    tolerance: float | None = Field(None, ge=0)
    note: str | None = None


COLUMNS = list(Number.model_fields)
OPTIONAL = {"tolerance", "note"}
REMEDY = f"give a .csv file with the columns {','.join(COLUMNS)}, as config/baseline.csv"


def read_baseline(path: Path) -> pd.DataFrame:
    """Return another project's numbers. Raises InputError, with the first fault, if the file is not as described
    above."""
    rows = csv.DictReader(StringIO(read_text(path, REMEDY).removeprefix("\ufeff")), restkey="more", strict=True)
    numbers = []
    try:
        for row in rows:
            given = {name: text for name, text in row.items() if text or name not in OPTIONAL}
            numbers.append(Number.model_validate(given).model_dump())
    except (ValidationError, csv.Error) as error:
        what = first_fault(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{path}: line {rows.reader.line_num}: {what}", REMEDY) from None
    repeated = [name for name, count in Counter(rows.fieldnames or ()).items() if count > 1]
    if repeated or not numbers:
        what = f"several columns {repeated[0]}" if repeated else "no number below a header line"
        raise InputError(f"{path}: {what}", REMEDY)
    return pd.DataFrame(numbers, columns=COLUMNS)


def beside(cells: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Return a row per number of the baseline and cell of ours that agree; a number without a cell has a row without
    ours.

    `inside` says whether the number lies in the interval of ours; it is empty for a metric without an interval.
    `reproduction` is the verdict. Raises InputError for a metric that no cell of the study has, unless the study lacks
    the cell too."""
    chosen = cells[cells["chosen"]]
    known = set(cells.select_dtypes("number"))
    rows = []
    for theirs in baseline.to_dict("records"):
        keys = {name: theirs[name] for name in KEYS if theirs[name] != ""}
        ours = chosen[(chosen[list(keys)] == list(keys.values())).all(axis=1)]
        own = {"baseline_value": theirs["value"]} | {name: theirs[name] for name in ("metric", "source", *OPTIONAL)}
        for metric, part in ours.groupby("metric"):
            column = "value" if theirs["metric"] in ("value", metric) else theirs["metric"]
            if column not in known:
                what = f"--baseline: metric {column} ({theirs['source']}): the study has this cell, and no such number"
                raise InputError(what, "name a column of numbers in grouped_summary.csv, such as value")
            columns = {column: "value", f"{column}_low": "low", f"{column}_high": "high"}
            values = part.select_dtypes("number").reindex(columns=list(columns)).rename(columns=columns)
            named = own | {"metric": metric if column == "value" else column}
            rows += part[[*KEYS, "training", "setting"]].join(values).assign(**named).to_dict("records")
        rows += [theirs | own | {"value": None}] if ours.empty else []
    table = pd.DataFrame(rows, columns=TABLE).astype({"value": float, "low": float, "high": float})
    inside = table["baseline_value"].between(table["low"], table["high"]).astype(object)
    table = table.assign(difference=table["value"] - table["baseline_value"], inside=inside.where(table["low"].notna()))
    return table.assign(reproduction=_verdicts(table))


def _verdicts(table: pd.DataFrame) -> np.ndarray:
    """Return the verdict on each number, as the top of this file says."""
    is_near = table["difference"].abs() <= table["tolerance"].astype(float).fillna(0)
    is_reproduced = table["inside"].eq(True) | is_near
    sources = table.assign(is_reproduced=is_reproduced).groupby([*KEYS, "training", "setting", "metric"], dropna=False)
    theirs = sources["baseline_value"]
    is_between = table["value"].between(theirs.transform("min"), theirs.transform("max"))
    verdicts = {
        "not run": table["value"].isna(),
        "reproduced": is_reproduced,
        "sources disagree": sources["is_reproduced"].transform("any") | is_between,
    }
    return np.select(list(verdicts.values()), list(verdicts), "not reproduced")
