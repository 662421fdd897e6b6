"""Check that sound records are read as they were written, that each kind of damage is refused, and what a field says of itself."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from sound_records import CONTENTS, changed
from sparseft.errors import InputError
from sparseft.records.evaluation_record import BeforeMergeRecord, EvaluationRecord, SelectionRecord
from sparseft.records.manifests import (
    MaskReport,
    ModelManifest,
    PrunedManifest,
    SelectionManifest,
    TaskManifest,
)
from sparseft.records.merge_record import MergeRecord
from sparseft.records.record_file import RecordPart, read_record_file, write
from sparseft.records.throughput_record import MeasurementRecord, ThroughputRecord
from sparseft.records.training_record import DECIDING_KEYS, TrainingRecord
from sparseft.records.validation_record import ValidationRecord
from sparseft.storage.record import check_record, read_record
from sparseft.study import grid
from sparseft.study.schedule import Training

MANIFESTS = [MaskReport, ModelManifest, PrunedManifest, SelectionManifest, TaskManifest]
SCHEMAS = [*CONTENTS, MeasurementRecord, *MANIFESTS]


def reason_of(schema: type[RecordPart], path: Path) -> str:
    """Return why a file cannot be read."""
    with pytest.raises(InputError) as error:
        read_record_file(path, schema)
    return error.value.args[0]


def reason(schema: type[RecordPart], content: dict, tmp_path: Path) -> str:
    """Return why a content cannot be read, and see that it cannot be written either."""
    with pytest.raises(ValueError):
        schema(**content)
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content))
    return reason_of(schema, path)


def names(text: str, words: str) -> bool:
    """Return whether a text has every one of these words: the place and the values, whatever its sentence."""
    return all(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text) for word in words.split())


@pytest.mark.parametrize("schema", CONTENTS)
def test_a_record_is_read_as_it_was_written(schema, tmp_path):
    path = tmp_path / "record.json"
    record = schema(**CONTENTS[schema])
    write(path, record)
    assert read_record_file(path, schema).model_dump() == record.model_dump()
    content = read_record(path)
    assert {name: content[name] for name in CONTENTS[schema]} == json.loads(
        json.dumps(record.model_dump(include=set(CONTENTS[schema])))
    )
    assert list(json.loads(path.read_text()))[-1] == "record_sha256"
    check_record(path, record.record)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "json"), ("{", "json"), ("[]", "object"), ("{}", "lacks"), ("\xff", "json"), ('{"value": NaN}', "lacks")],
)
def test_a_malformed_file_is_refused(tmp_path, text, words):
    path = tmp_path / "evaluation.json"
    path.write_text(text, encoding="latin-1")
    assert reason_of(EvaluationRecord, path).startswith("evaluation.json: ")
    assert names(reason_of(EvaluationRecord, path), words)


def test_an_altered_and_a_missing_record_are_refused(tmp_path):
    path = tmp_path / "merge.json"
    assert names(reason_of(MergeRecord, path), "merge.json no file")
    write(path, MergeRecord(**CONTENTS[MergeRecord]))
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    assert names(reason_of(MergeRecord, path), "merge.json altered")


@pytest.mark.parametrize("schema", CONTENTS)
def test_a_key_that_no_version_wrote_and_a_record_of_another_kind_are_refused(schema, tmp_path):
    assert names(reason(schema, CONTENTS[schema] | {"further": 1}, tmp_path), "further")
    assert names(reason(schema, CONTENTS[schema] | {"record": "other"}, tmp_path), "record")


SCORED = [
    ({"value": "0.5"}, "value number"),
    ({"value": True}, "value number"),
    ({"value": None}, "value number"),
    ({"value": float("nan")}, "value finite"),
    ({"outcomes": [1.0, 0.0]}, "2 outcomes 4"),
    ({"losses": [12.0]}, "1 losses 4"),
    ({"labels": [0] * 5}, "5 labels 4"),
    ({"predictions": []}, "0 predictions 4"),
    ({"examples": 5}, "losses answer_tokens outcomes 4 5"),
    ({"examples": 1}, "examples 1"),
    ({"examples": 10**400}, "examples 9223372036854775808"),
    ({"outcomes": [1.0, 1.0, 1.0, 0.0]}, "value 0.5 outcomes"),
    ({"outcomes": [1.0, 0.0, 1.0, 2.0]}, "outcomes 3 1"),
    ({"outcomes": None}, "value 0.5 eval_loss 2"),
    ({"eval_loss": 2.25}, "eval_loss 2.25 losses"),
    ({"eval_loss": 1e308}, "eval_loss 1000000"),
    ({"losses": [-1.0, 3.0, 2.0, 6.0]}, "losses 0"),
    ({"answer_tokens": [0, 1, 2, 2]}, "answer_tokens 0"),
    ({"log_likelihoods": [[0.1, -1.0]] * 4}, "log_likelihoods 0"),
    ({"labels": ["a", 1, 0, 1]}, "labels"),
    ({"chance": 1.5}, "chance 1"),
    ({"seconds": -1.0}, "seconds 0"),
    ({"peak_memory_bytes": 0}, "peak_memory_bytes 0"),
    ({"scored_by": "us"}, "scored_by lm-eval"),
]
TRAINING = [
    ({"train_seconds": -10.0}, "train_seconds 0"),
    ({"train_seconds": 5.0}, "80 samples 800 tokens 5 8"),
    ({"tokens": 801}, "801 tokens 10 80"),
    ({"tokens_per_second_overall": 160.0}, "800 tokens 10 160"),
    ({"steps": 21}, "20 losses 21"),
    ({"updates": 21}, "21 updates 20"),
    ({"updates": -1}, "updates 0"),
    ({"final_loss": 1.0}, "final_loss 1 loss_curve"),
    ({"loss_curve__3__loss": -1.0}, "loss_curve 3 loss 0"),
    ({"trainable_parameters": 0}, "trainable_parameters 0"),
    ({"micro_batch_size": "some"}, "micro_batch_size auto"),
    ({"lora_dropout": 1.5}, "lora_dropout 1"),
    ({"ended_early": {"step": 20, "loss": 3.0, "loss_above": 2.0}}, "early 20"),
]
# 5 of 1,000 weights are pruned and not zero, but within the tolerance.
TOLERATED = {
    "layers__0__zeros": 495, "layers__0__within_tolerance": 5, "layers__0__max_abs_pruned": 0.0009, "tolerance": 0.001,
    "max_abs_pruned": 0.0009, "actual_sparsity": 0.4975, "not_checked": ["5 passed as zeros."],
}  # fmt: skip
VALIDATION = [
    (TOLERATED | {"tolerance": 0.0}, "tolerance 0 5 0.0009 violations"),
    (TOLERATED | {"not_checked": []}, "0 not_checked"),
    (TOLERATED | {"max_abs_pruned": 0.0}, "max_abs_pruned 0 layers"),
    (TOLERATED | {"sparsity_within_tolerance": 0.4975}, "sparsity_within_tolerance 0.4975 1,000 2,000"),
    ({"sparsity_within_tolerance": 1.5}, "sparsity_within_tolerance 1"),
    ({"layers__0__zeros": 1001}, "layer zeros weights"),
    ({"layers__1__pruned": 501}, "layer pruned zeros violations"),
    ({"layers__1__max_abs_pruned": 0.5}, "max_abs_pruned 0"),
    ({"inputs__base": None}, "0 not_checked"),
    ({"mask__sparsity": 50}, "mask sparsity 1"),
]
THROUGHPUT = [
    ({"batches__1__batch_size": 4}, "sizes asked"),
    ({"batch_sizes": [4, 8, 16, 32, 64]}, "sizes asked"),
    ({"repeats": 3}, "size 4 measured 2 repeats"),
    ({"batches__1__repeats": []}, "size 8 measured 0 repeats"),
    ({"batches__1__status": grid.OUT_OF_MEMORY}, "memory once"),
    ({"batches__0__status": grid.SKIPPED}, "memory once"),
    ({"batches__2__status": grid.SKIPPED}, "memory once"),
    ({"batches__0__status": "lost"}, "batches 0 status measured"),
    ({"batches__0__repeats__0__samples": 9}, "size 4 2 steps"),
    ({"batches__0__repeats__0__tokens": 121}, "batches 0 repeats 121 tokens 120"),
    ({"batches__0__repeats__0__seconds": -1.0}, "batches 0 repeats seconds 0"),
    ({"batches__0__repeats__0__dtype": "float32"}, "dtypes"),
    ({"memory_limit_kind": None}, "limit kind"),
    ({"memory_limit_kind": None, "memory_limit_bytes": None}, "memory limit"),
    ({"peak_memory_kind": None}, "peak_memory_kind string"),
    ({"batches": []}, "batches 1"),
]
DAMAGE = [
    *((schema, *row) for schema in (EvaluationRecord, SelectionRecord, BeforeMergeRecord) for row in SCORED),
    *((TrainingRecord, *row) for row in TRAINING),
    *((ValidationRecord, *row) for row in VALIDATION),
    *((ThroughputRecord, *row) for row in THROUGHPUT),
    (EvaluationRecord, {"probes__p__value": 0.25}, "probes p 0.25 outcomes"),
    (EvaluationRecord, {"overlap": 1.5}, "overlap 1"),
    (SelectionRecord, {"split": "validation"}, "split selection"),
    (MergeRecord, {"outputs": {}}, "outputs 1"),
]


@pytest.mark.parametrize(("schema", "changes", "words"), DAMAGE)
def test_a_record_that_contradicts_itself_is_neither_written_nor_read(schema, changes, words, tmp_path):
    assert names(reason(schema, changed(schema, **changes), tmp_path), words)


def test_a_task_whose_metric_is_the_loss_has_no_answers():
    none = dict.fromkeys(("outcomes", "labels", "choice_lengths", "log_likelihoods", "predictions", "ties", "chance"))
    content = changed(EvaluationRecord, metric="loss", value=2.0, harness=None, **none)
    assert EvaluationRecord(**content).outcomes is None


def test_the_answers_can_be_dropped_and_what_is_compared_stays():
    record = EvaluationRecord(**CONTENTS[EvaluationRecord])
    light = record.without_answers()
    for answers in (light, light.probes["p"]):
        assert (answers.labels, answers.log_likelihoods, answers.predictions) == (None, None, None)
        assert answers.outcomes == record.outcomes
    assert (light.losses, light.settings, light.digests) == (record.losses, record.settings, record.digests)


@pytest.mark.parametrize(("schema", "digests"), [
    (TrainingRecord, {"base": "base", "mask": "mask", "adapter": "adapter", "data": "data", "train": "train",
                      "definition": None, "start": None}),
    (MergeRecord, {"base": "base", "mask": "mask", "adapter": "adapter"}),
    (BeforeMergeRecord, {"base": "base", "mask": "mask", "adapter": "adapter", "data": "data", "train": "train",
                         "definition": None}),
    (ValidationRecord, {"base": "base", "mask": "mask"}),
    (EvaluationRecord, {"data": "data", "train": "train", "definition": None}),
    (SelectionRecord, {"data": "selection", "train": "train", "definition": None}),
])  # fmt: skip
def test_a_record_names_the_digests_of_its_links(schema, digests):
    found = schema(**CONTENTS[schema]).digests
    merged = found.pop("merged", None)
    assert found == digests
    # printf 'config  config.json\nmerged  model.safetensors\n' | sha256sum
    known = "d08bcb604f62c9927fba8dae34bd46991ade05b3787730074adaa826e959f4fe"
    assert merged in (None, known)
    assert (merged is None) == (schema in (TrainingRecord, BeforeMergeRecord))


def test_a_validation_without_a_base_names_none():
    record = ValidationRecord(**changed(ValidationRecord, inputs__base=None, not_checked=["No base."]))
    assert "base" not in record.digests


def test_the_settings_are_the_fields_with_this_role_and_those_of_the_parts():
    record = EvaluationRecord(**changed(EvaluationRecord, few_shot=2))
    own = {"metric": "acc", "definition_sha256": None, "few_shot": 2, "harness": "lm-eval 0.4", "loss_few_shot": 0}
    own |= {"dtype": "float32", "inputs.train": "train", "inputs.wikitext2": None}
    probe = {"metric": "acc", "definition_sha256": None, "few_shot": 0, "harness": "lm-eval 0.4"}
    probe |= {"data_sha256": "probe data", "train_sha256": "probe train"}
    assert record.settings == own | {f"probes.p.{name}": value for name, value in probe.items()}


def test_every_key_of_the_training_is_in_its_record_and_those_that_decide_the_adapter_are_settings():
    reconstruction = {"examples": 8, "seed": 1, "tokens": 90, "resumed_after_layers": []}
    layers = [{"error_before": 2.0, "error_after": 1.0, "losses": [0.5], "seconds": 1.0}]
    content = changed(TrainingRecord, reconstruction=reconstruction | {"layers": layers}, cerebras={"target": "CPU"})
    record = TrainingRecord(**content)
    assert Training.model_fields.keys() <= TrainingRecord.model_fields.keys()
    assert set(DECIDING_KEYS) == record.settings.keys() & Training.model_fields.keys()
    assert (record.settings["reconstruction.seed"], record.settings["cerebras.target"]) == (1, "CPU")
    assert (record.final_task_loss, TrainingRecord(**CONTENTS[TrainingRecord]).final_task_loss) == (None, 0.5)


def parts_of(schema: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a schema and the schemas of its parts."""
    found = {schema}
    pending = [field.annotation for field in schema.model_fields.values()]
    while pending:
        annotation = pending.pop()
        pending += get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found |= parts_of(annotation)
    return found


@pytest.mark.parametrize("schema", sorted({part for schema in SCHEMAS for part in parts_of(schema)}, key=str))
def test_every_field_says_what_it_is_in_which_unit_and_in_which_role(schema):
    for name, field in schema.model_fields.items():
        assert re.fullmatch(r"[^\n]{4,400}\.", field.description), name
        assert field.json_schema_extra["role"] in ("setting", "measurement", "provenance"), name
        assert isinstance(field.json_schema_extra["unit"], str)
