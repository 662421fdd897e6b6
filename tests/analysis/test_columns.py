"""Check how the value of a column is taken from the object of its row."""

from types import SimpleNamespace

from sparseft.analysis.columns import STUDY_TABLES, SUMMARY, TABLES, THROUGHPUT
from sparseft.analysis.columns.column import Column, TableDescription, like

TABLE = TableDescription(
    "some.csv",
    "One row per run. Its other sentences are for the docs.",
    (
        Column("acc", "number", "Accuracy.", source="record.metrics.acc"),
        Column("f1", "number", "F1.", source="record.metrics.f1"),
        Column("steps", "integer", "Steps.", source="record.train.steps"),
        Column("text_ppl_N", "number", "Perplexity.", source="record.metrics"),
        Column("loss", "number", "Loss.", source="record.metrics.loss", is_optional=True),
        Column("probe_NAME", "number", "Probe.", source="record.probes"),
        Column("probes_mean", "number", "Mean of the probes.", is_optional=True),
    ),
)


def test_a_value_is_found_by_attributes_and_keys_and_is_none_without_its_file():
    metrics = {"acc": 0.5, "text_ppl_20": 9.0, "text_ppl_40": 8.0}
    row = SimpleNamespace(record=SimpleNamespace(train=None, metrics=metrics, probes={}))
    assert TABLE.row_of(row) == {"acc": 0.5, "f1": None, "steps": None, "text_ppl_20": 9.0, "text_ppl_40": 8.0}
    row.record.train = SimpleNamespace(steps=60)
    row.record.probes = {"probe_piqa": 0.25}
    metrics["loss"] = 2.0
    assert TABLE.row_of(row)["steps"] == 60
    assert list(TABLE.row_of(row)) == ["acc", "f1", "steps", "text_ppl_20", "text_ppl_40", "loss", "probe_piqa"]


def test_a_name_that_ends_with_n_describes_several_columns():
    assert TABLE.type_of("text_ppl_20") == "number"
    assert [column.name for column in TABLE.columns if column.describes("text_ppl_20")] == ["text_ppl_N"]


def test_columns_stand_in_the_order_of_their_descriptions_and_others_nowhere():
    names = ["probes_mean", "probe_b", "other", "acc", "probe_a", "text_ppl_20"]
    assert TABLE.in_order(names) == ["acc", "text_ppl_20", "probe_b", "probe_a", "probes_mean"]


def test_a_column_of_another_table_has_its_own_source():
    (steps,) = like(TABLE, "steps", part="measurement", empty="never")
    assert (steps.source, steps.type) == ("measurement.steps", "integer")
    (acc,) = like(TABLE, "acc")
    assert (acc.source, acc.empty) == ("", "never")


def test_what_a_row_is_stands_in_the_first_sentence():
    assert TABLE.row == "One row per run."
    for table in STUDY_TABLES:
        assert table.row.startswith("One row per ")


def test_every_column_that_is_taken_from_a_row_has_a_source_and_no_name_is_there_twice():
    for table in (SUMMARY, THROUGHPUT):
        computed = {column.name for column in table.columns if not column.source}
        # These are computed from the other columns, or from the other runs.
        assert computed <= {"probes_mean", "probes_mean_stderr", "chosen"}
    for table in TABLES:
        assert len(set(table.names)) == len(table.names)
