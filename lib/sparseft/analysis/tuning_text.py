"""Say what was tuned, over which trainings, and how the reported one was chosen."""

from collections.abc import Iterable

import pandas as pd

from sparseft.analysis import tuning
from sparseft.analysis.markdown import bullets, markdown_table
from sparseft.analysis.records import DECIDING_KEYS, Record
from sparseft.analysis.texts import NONE
from sparseft.study.grid import Cell

# What names a cell in the table of the budgets.
PLACE = ["setting", *tuning.PLACE]
TITLE = "How the trainings were chosen"
_SECTION = """## {title}

{cells} trained cells were tuned over {tried} trainings each. All tables, figures and sentences are about one training per cell:
the one with the best mean over its seeds on the selection rows ({examples} examples). Equal means are decided by the loss there,
and then by the order of the configuration. The selection rows are neither trained on nor reported, and no validation result took
part in the choice. {ties}summary.csv has the runs of every training, and budget.csv what each cost and reached.

{trainings}"""
_UNEQUAL = """
Not all cells were tuned over equally many trainings. The mode with more of them has more chances of a lucky seed.
"""


def section(budget: pd.DataFrame, records: Iterable[Record]) -> str:
    """Return the section on the choice of the trainings; empty if no cell has several. `records` are those of the study."""
    tuned = budget[budget["trainings_tried"] > 1]
    if tuned.empty:
        return ""
    text = _SECTION.format(
        title=TITLE,
        cells=len(tuned[PLACE].drop_duplicates()),
        tried=span(tuned["trainings_tried"]),
        examples=span(tuned["selection_examples"].dropna()),
        ties=_ties(tuned["decided_by"].dropna()),
        trainings=_trainings_table(tuned, list(records)),
    )
    unequal = _UNEQUAL if tuned["trainings_tried"].nunique() > 1 else ""
    return text + unequal + _obstacles(tuned)


def words(comparisons: pd.DataFrame, budget: pd.DataFrame) -> str:
    """Return over how many trainings the cells of comparisons were tuned, as a part of a sentence; empty if none was."""
    ours = comparisons["trainings_tried"]
    theirs = comparisons["against_trainings_tried"]
    if max(ours.max(), theirs.max()) <= 1:
        return ""
    examples = budget.loc[budget["trainings_tried"] > 1, "selection_examples"].dropna()
    chosen = f", chosen on {span(examples)} selection examples" if len(examples) else ""
    if (theirs == 0).all():
        return f"tuned over {span(ours)} trainings{chosen}"
    if (ours == theirs).all():
        return f"each tuned over {span(ours)} trainings{chosen}"
    return f"tuned over {span(ours)} trainings against {span(theirs)}{chosen}"


def span(numbers: Iterable[int]) -> str:
    """Return a number, or the range of several."""
    distinct = sorted({int(number) for number in numbers})
    if not distinct:
        return "no"
    return f"{distinct[0]}" if len(distinct) == 1 else f"{distinct[0]} to {distinct[-1]}"


def _ties(decided_by: pd.Series) -> str:
    """Return how often the best mean was shared, and what decided, as a sentence; empty if it never was."""
    shared = decided_by[decided_by != tuning.BY_VALUE].value_counts()
    if shared.empty:
        return ""
    by = " and ".join(
        f"the {name} decided {shared[name]}" for name in (tuning.BY_LOSS, tuning.BY_ORDER) if name in shared
    )
    return f"In {shared.sum()} of {len(decided_by)} cells several trainings shared the best mean: {by}. "


def _trainings_table(tuned: pd.DataFrame, records: list[Record]) -> str:
    """Return the table of the trainings: what distinguishes each, how often it was chosen, and how often it could not be."""
    settings = _distinguishing(records)
    rows = []
    for training, members in tuned.groupby("training", sort=False):
        chosen = f"{int(members['chosen'].sum())} of {len(members)} cells"
        rows.append([training or NONE, settings.get(training, NONE), chosen, int(members["obstacle"].notna().sum())])
    return markdown_table(["training", "settings", "chosen", "could not be chosen"], rows)


def _distinguishing(records: list[Record]) -> dict[str, str]:
    """Return for each training the settings in which the trainings differ, as a text."""
    trained = [record for record in records if record.train]
    values: dict[str, dict[str, list]] = {}
    for record in trained:
        for key in DECIDING_KEYS:
            of_key = values.setdefault(key, {}).setdefault(record.run.training, [])
            value = getattr(record.train, key)
            if value not in of_key:
                of_key.append(value)
    differing = [
        key for key in DECIDING_KEYS if len({str(sorted(map(str, v))) for v in values.get(key, {}).values()}) > 1
    ]
    names = dict.fromkeys(record.run.training for record in trained)
    return {
        name: ", ".join(f"{key} {' or '.join(map(str, values[key][name]))}" for key in differing) or NONE
        for name in names
    }


def _obstacles(tuned: pd.DataFrame) -> str:
    """Return the list of the trainings that could not be chosen, and of the cells without a choice; empty if there is none."""
    cells = tuned.assign(cell=[_cell_name(row) for row in tuned.itertuples()])
    unable = cells[cells["obstacle"].notna()]
    sentences = [
        f"training {training or NONE}: {obstacle}, in {', '.join(rows['cell'].unique())}"
        for (training, obstacle), rows in unable.groupby(["training", "obstacle"], sort=False)
    ]
    has_choice = cells.groupby("cell", sort=False)["chosen"].any()
    without = list(has_choice.index[~has_choice])
    if without:
        sentences.append(
            f"all trainings of these cells, so only summary.csv and budget.csv have them: {', '.join(without)}"
        )
    return f"\nTrainings that could not be chosen:\n\n{bullets(sentences)}" if sentences else ""


def _cell_name(row: tuple) -> str:
    """Return the name of a cell."""
    return Cell(row.model, row.task, row.method, int(row.sparsity), row.mode).id
