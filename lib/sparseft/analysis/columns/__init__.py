"""Describe the columns of every table, in the order of the files.

The tables are written from these descriptions: their order, their types and, for a row of summary.csv, where each value comes
from. docs/generate.py prints them as docs/reference/tables.md. tests/analysis/test_docs.py compares them with the files.
"""

from sparseft.analysis.columns.budget_columns import BUDGET
from sparseft.analysis.columns.cell_columns import CURVES, GROUPED, LAYERS
from sparseft.analysis.columns.column import TableDescription
from sparseft.analysis.columns.comparison_columns import BASELINE, COMPARISONS, TRADEOFFS
from sparseft.analysis.columns.run_columns import MISSING, SUMMARY
from sparseft.analysis.columns.throughput_columns import THROUGHPUT

# Every analysis writes these.
STUDY_TABLES: tuple[TableDescription, ...] = (SUMMARY, GROUPED, CURVES, COMPARISONS, TRADEOFFS, BUDGET, LAYERS, MISSING)
TABLES: tuple[TableDescription, ...] = (*STUDY_TABLES, BASELINE, THROUGHPUT)

__all__ = [
    "BASELINE",
    "BUDGET",
    "COMPARISONS",
    "CURVES",
    "GROUPED",
    "LAYERS",
    "MISSING",
    "STUDY_TABLES",
    "SUMMARY",
    "TABLES",
    "THROUGHPUT",
    "TRADEOFFS",
]
