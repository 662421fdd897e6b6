"""Put published or other numbers beside those of a study.

The file is a .csv with one header line and the columns of a Number. The last two may be missing. Each number gets a verdict:

    reproduced          it lies in our interval, or no further from our value than its tolerance
    sources disagree    it is not reproduced, and the file has another value of the same cell and metric
    not reproduced      neither of them
    not run             the study has no cell with its values
"""

from csv import DictReader
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError

from sparseft.errors import InputError
from sparseft.storage.reading import read_text
from sparseft.study.section import Section, first_fault

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
    """Return another project's numbers. Raises InputError, with the first fault, if the file is not as described above."""
    numbers = []
    for line, row in enumerate(DictReader(StringIO(read_text(path, REMEDY)), restkey="more"), 2):
        try:
            given = {name: text for name, text in row.items() if text or name not in OPTIONAL}
            numbers.append(Number.model_validate(given).model_dump())
        except ValidationError as error:
            raise InputError(f"{path}: line {line}: {first_fault(error)}", REMEDY) from None
    return pd.DataFrame(numbers, columns=COLUMNS)


def beside(cells: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Return a row per number of the baseline and cell of ours that agree; a number without a cell has a row without ours.

    `inside` says whether the number lies in the interval of ours; it is empty for a metric without an interval.
    `reproduction` is the verdict."""
    chosen = cells[cells["chosen"]]
    rows = []
    for theirs in baseline.to_dict("records"):
        keys = {name: theirs[name] for name in KEYS if theirs[name] != ""}
        ours = chosen[(chosen[list(keys)] == list(keys.values())).all(axis=1)]
        own = {"baseline_value": theirs["value"]} | {name: theirs[name] for name in ("metric", "source", *OPTIONAL)}
        for metric, part in ours.groupby("metric"):
            column = "value" if theirs["metric"] in ("value", metric) else theirs["metric"]
            columns = {column: "value", f"{column}_low": "low", f"{column}_high": "high"}
            values = part.select_dtypes("number").reindex(columns=list(columns)).rename(columns=columns)
            rows += part[[*KEYS, "training", "setting"]].join(values).assign(**own).to_dict("records")
        rows += [theirs | own | {"value": None}] if ours.empty else []
    table = pd.DataFrame(rows, columns=TABLE).astype({"value": float, "low": float, "high": float})
    inside = table["baseline_value"].between(table["low"], table["high"]).astype(object)
    table = table.assign(difference=table["value"] - table["baseline_value"], inside=inside.where(table["low"].notna()))
    is_near = table["difference"].abs() <= table["tolerance"].astype(float)
    others = table.groupby([*KEYS, "metric"], dropna=False)["baseline_value"].transform("nunique") > 1
    verdicts = {"not run": table["value"].isna(), "reproduced": inside.eq(True) | is_near, "sources disagree": others}
    return table.assign(reproduction=np.select(list(verdicts.values()), list(verdicts), "not reproduced"))
