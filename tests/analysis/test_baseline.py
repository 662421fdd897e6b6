"""Other numbers stand beside those of a study: ours, theirs, the difference, and whether theirs is inside our
interval."""

import pandas as pd
import pytest
from project import ROOT
from sparseft.analysis.baseline import COLUMNS, OPTIONAL, beside, read_baseline
from sparseft.common.errors import InputError

# The columns that a file must have.
HEADER = ",".join(name for name in COLUMNS if name not in OPTIONAL)
CELLS = pd.DataFrame(
    {
        "model": ["m", "m", "n"],
        "task": "boolq",
        "method": ["unstructured", "unstructured_wanda", "unstructured"],
        "sparsity": 50,
        "mode": "no_finetune",
        "training": "",
        "setting": "",
        "metric": "acc",
        "value": [0.5, 0.75, 0.25],
        "value_low": [0.4, 0.7, 0.2],
        "value_high": [0.6, 0.8, 0.3],
        "wikitext2_ppl_2048": [30.0, 20.0, 40.0],
        "chosen": True,
    }
)


def baseline(tmp_path, *rows: str, header: str = HEADER) -> pd.DataFrame:
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_baseline(path)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("m,boolq,unstructured_wanda,50,no_finetune,acc,0.78,x", [("m", 0.75, True)]),
        ("m,boolq,unstructured_wanda,50,no_finetune,value,0.78,x", [("m", 0.75, True)]),
        # An empty field agrees with every cell.
        (",boolq,unstructured,50,,acc,0.29,x", [("m", 0.5, False), ("n", 0.25, True)]),
        ("m,boolq,unstructured,60,,acc,0.5,x", [("m", None, None)]),
    ],
)
def test_a_number_stands_beside_each_cell_that_it_is_of_or_alone(tmp_path, row, cells):
    table = beside(CELLS, baseline(tmp_path, row))
    assert set(table["baseline_value"]) == {float(row.split(",")[-2])}
    found = table[["model", "value", "inside"]].replace({float("nan"): None})
    assert list(found.itertuples(index=False, name=None)) == cells
    differences = table["value"] - table["baseline_value"]
    assert table["difference"].tolist() == pytest.approx(differences.tolist(), nan_ok=True)


def test_a_number_is_reproduced_in_the_interval_or_the_tolerance(tmp_path):
    rows = {
        "m,boolq,unstructured,50,,acc,0.59,a,,": "reproduced",
        "m,boolq,unstructured_wanda,50,,acc,0.85,a,0.1,their dtype": "reproduced",
        "m,boolq,unstructured_wanda,50,,wikitext2_ppl_2048,20.5,a,0.5,": "reproduced",
        "n,boolq,unstructured,50,,acc,0.31,a,,": "not reproduced",
        "m,boolq,unstructured,60,,acc,0.5,a,,": "not run",
    }
    table = beside(CELLS, baseline(tmp_path, *rows, header=",".join(COLUMNS)))
    assert table["reproduction"].tolist() == list(rows.values())
    assert table["note"].tolist()[1] == "their dtype"


@pytest.mark.parametrize(
    ("theirs", "verdicts"),
    [
        ([20.1, 22.5], ["reproduced", "sources disagree"]),
        ([18.0, 25.0], ["sources disagree"] * 2),
        ([22.5, 22.51], ["not reproduced"] * 2),
    ],
)
def test_sources_disagree_only_if_ours_lies_between_them_or_agrees_with_one(tmp_path, theirs, verdicts):
    rows = [f"m,boolq,unstructured_wanda,50,,wikitext2_ppl_2048,{value},s,0.2" for value in theirs]
    table = beside(CELLS, baseline(tmp_path, *rows, header=f"{HEADER},tolerance"))
    assert table["reproduction"].tolist() == verdicts


def test_a_metric_that_the_study_has_nowhere_is_refused_and_not_called_not_run(tmp_path):
    with pytest.raises(InputError, match=r"wikitext2_pl_2048 \(theirs\)"):
        beside(CELLS, baseline(tmp_path, "m,boolq,unstructured,50,,wikitext2_pl_2048,28.5,theirs"))
    cells = CELLS.assign(wikitext2_ppl_2048=[30.0, None, 40.0])
    row = baseline(tmp_path, "m,boolq,unstructured_wanda,50,,wikitext2_ppl_2048,28.5,theirs")
    assert beside(cells, row)["reproduction"].tolist() == ["not run"]


@pytest.mark.parametrize(
    ("row", "header", "what"),
    [
        ("m,boolq,x,50,,acc,0.5", HEADER.removesuffix(",source"), "line 2: source: Field required"),
        ("m,boolq,x,50,,acc,much,s", HEADER, "line 2: value: .* not 'much'"),
        ("m,boolq,x,50,,acc,0.5,s,more", HEADER, "line 2: more: unknown key"),
        ("m,boolq,x,50,,acc,0.5,s,0.6", f"{HEADER},value", "several columns value"),
        ("", HEADER, "no number below a header line"),
    ],
)
def test_a_damaged_file_is_refused_with_its_first_fault(tmp_path, row, header, what):
    with pytest.raises(InputError, match=what):
        baseline(tmp_path, row, header=header)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    assert baseline(tmp_path, "m,boolq,x,50,,acc,0.5,s", header=f"\ufeff{HEADER}")["model"].tolist() == ["m"]


def test_the_example_of_the_configuration_can_be_read():
    assert list(read_baseline(ROOT / "config/baseline.csv")) == COLUMNS
