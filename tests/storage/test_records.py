"""Check that sound records are read as they were written, and that each kind of damage is refused."""

import json
import re
from pathlib import Path

import pytest
from project import read_record
from sparseft.common.errors import InputError
from sparseft.evaluation.evaluation_record import EvaluationRecord
from sparseft.evaluation.throughput_record import ThroughputRecord
from sparseft.pruning.masks.validation_record import ValidationRecord
from sparseft.serving.engine_record import EnginesRecord
from sparseft.storage.outputs import check_ours
from sparseft.storage.record import first_key
from sparseft.storage.record_file import RecordPart, files_digest, read_record_file, write
from sparseft.training.lora.merge_record import MergeRecord
from sparseft.training.settings import Effort, Training
from sparseft.training.training_record import TrainingRecord
from storage.sound_records import CONTENTS, changed, digest


def reason_of(schema: type[RecordPart], path: Path) -> str:
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
    return all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words.split())


@pytest.mark.parametrize("schema", CONTENTS)
def test_a_record_is_read_as_it_was_written(schema, tmp_path):
    path = tmp_path / "record.json"
    record = schema(**CONTENTS[schema])
    write(path, record)
    assert read_record_file(path, schema).model_dump() == record.model_dump()
    content = read_record(path)
    expected = json.loads(json.dumps(record.model_dump(include=set(CONTENTS[schema]))))
    assert {name: content[name] for name in CONTENTS[schema]} == expected
    assert list(json.loads(path.read_text()))[-1] == "record_sha256"
    check_ours(path, first_key(record.record))


@pytest.mark.parametrize(("text", "words"), [("{", "json"), ("[]", "object"), ("{}", "required"), ("\xff", "json")])
def test_a_malformed_file_is_refused(tmp_path, text, words):
    path = tmp_path / "evaluation.json"
    path.write_text(text, encoding="latin-1")
    assert reason_of(EvaluationRecord, path).startswith("evaluation.json: ")
    assert names(reason_of(EvaluationRecord, path), words)


@pytest.mark.parametrize("schema", CONTENTS)
def test_a_key_that_no_version_wrote_and_a_record_of_another_kind_are_refused(schema, tmp_path):
    assert names(reason(schema, CONTENTS[schema] | {"further": 1}, tmp_path), "further")
    assert names(reason(schema, CONTENTS[schema] | {"record": "other"}, tmp_path), "record")


DAMAGE = [
    (EvaluationRecord, {"same_top_tokens": 1.5}, "same_top_tokens 1"),
    (EvaluationRecord, {"value": float("nan")}, "value finite"),
    (EvaluationRecord, {"outcomes": [1.0, 0.0, 1.0, 2.0]}, "outcomes 3 1"),
    (EvaluationRecord, {"log_likelihoods": [[0.1, -1.0]] * 4}, "log_likelihoods 0"),
    (MergeRecord, {"outputs": {}}, "outputs 1"),
    (TrainingRecord, {"tokens_per_second": 1e300}, "tokens_per_second 1000000000"),
    (EnginesRecord, {"results__1__clock": "wall"}, "results CPU wall compared"),
    (ValidationRecord, {"mask__sparsity": 50}, "mask sparsity 1"),
    (ThroughputRecord, {"batches__0__status": "lost"}, "batches 0 status measured"),
]


@pytest.mark.parametrize(("schema", "changes", "words"), DAMAGE)
def test_a_record_with_a_value_that_cannot_be_is_neither_written_nor_read(schema, changes, words, tmp_path):
    assert names(reason(schema, changed(schema, **changes), tmp_path), words)


def test_the_answers_can_be_dropped_and_what_is_compared_stays():
    answers = {"labels": [0, 1], "log_likelihoods": [[-1.0, -2.0]] * 2, "predictions": [0, 1]}
    of_probe = {f"probes__p__{name}": value for name, value in answers.items()}
    record = EvaluationRecord(**changed(EvaluationRecord, **answers, **of_probe))
    assert record.probes["p"].labels == [0, 1]
    light = record.without_answers()
    for part, whole in ((light, record), (light.probes["p"], record.probes["p"])):
        assert (part.labels, part.log_likelihoods, part.predictions) == (None, None, None)
        assert part.outcomes == whole.outcomes
    assert (light.losses, light.settings) == (record.losses, record.settings)


def test_the_digest_of_several_files_is_that_of_their_listing():
    files = {"model.safetensors": "merged", "config.json": "config"}
    # printf 'config  config.json\nmerged  model.safetensors\n' | sha256sum
    assert files_digest(files) == "d08bcb604f62c9927fba8dae34bd46991ade05b3787730074adaa826e959f4fe"


def test_the_settings_are_the_fields_with_this_role_and_those_of_the_parts():
    record = EvaluationRecord(**changed(EvaluationRecord, few_shot=2))
    own = {"metric": "acc", "definition_sha256": None, "harness": "lm-eval 1"}
    probe = own | {"few_shot": 0, "data_sha256": digest("p", "data"), "train_sha256": digest("p", "train")}
    own |= {"few_shot": 2, "loss_few_shot": 0, "dtype": "float32", "inputs.train": digest("t", "train")}
    own |= {"inputs.wikitext2": None, "inputs.divergence": None}
    assert record.settings == own | {f"probes.p.{name}": value for name, value in probe.items()}


def test_every_key_of_the_training_is_in_its_record_and_those_that_decide_the_adapter_are_settings():
    reconstruction = {"examples": 8, "seed": 1, "tokens": 90, "resumed_after_layers": []}
    layers = [{"error_before": 2.0, "error_after": 1.0, "losses": [0.5], "seconds": 1.0}]
    content = changed(TrainingRecord, reconstruction=reconstruction | {"layers": layers}, cerebras={"target": "CPU"})
    record = TrainingRecord(**content)
    assert Training.model_fields.keys() <= TrainingRecord.model_fields.keys()
    without_effect = {*Effort.model_fields, "eval_every"}
    assert record.settings.keys() & Training.model_fields.keys() == Training.model_fields.keys() - without_effect
    assert (record.settings["reconstruction.seed"], record.settings["cerebras.target"]) == (1, "CPU")
    assert (record.final_task_loss, TrainingRecord(**CONTENTS[TrainingRecord]).final_task_loss) == (None, 2.0)


def test_the_final_task_loss_of_a_distillation_is_its_cross_entropy():
    content = changed(TrainingRecord, distillation={"weight": 0.25, "temperature": 2.0})
    for point in content["loss_curve"]:
        point |= {"cross_entropy": point["loss"] / 2, "divergence": 0.0}
    record = TrainingRecord(**content)
    assert (record.final_loss, record.final_task_loss) == (2.0, 1.0)
    assert record.model_dump()["distillation"] == {"weight": 0.25, "temperature": 2.0}


# What a validation report says against what its rows show.
LEFT = {"passed": False, "layers_checked": 0, "layers": [], "expected_sparsity": None, "actual_sparsity": None,
        "sparsity_within_tolerance": None}  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), [
    ({"passed": False, "violations": 3, "max_abs_violation": 1e-6}, "failed.* 3 weights violate .*1e-06"),
    (LEFT, "failed.* 0 of 2 layers"),
    ({"violations": 1}, "says passed.* 1 weights violate .*totals"),
    ({"mask_of_base": False}, "says passed.*another base"),
    ({"tensors_outside_changed": ["a", "b"]}, "says passed.*outside the mask: a, b"),
    ({"layers__0__violations": 3}, "says passed.*totals .* 3 violations"),
    ({"actual_sparsity": 0.25}, "says passed.*actual_sparsity 0.25 .* 1,000 of 2,000"),
])  # fmt: skip
def test_a_report_that_fails_or_that_says_more_than_its_rows_show_has_a_fault(changes, words):
    (fault,) = ValidationRecord(**changed(ValidationRecord, **changes)).faults()
    assert re.search(words, fault)
