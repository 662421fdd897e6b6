"""The lengths of a task's examples: from the prepared data, or typical ones."""

import json

from project import laid_over
from sparseft.planning.lengths import task_lengths
from sparseft.tasks import BY_NAME


def test_a_manifest_has_the_measured_lengths_and_one_of_another_version_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = laid_over(
        {"tasks": {"boolq": {"train_examples": 7}, "own": {"kind": "text", "hub": "a/b", "length": 100}}}
    )
    typical = task_lengths(config, "boolq")
    assert (typical.rows, typical.long) == ((7, BY_NAME["boolq"].lengths.rows[1]), BY_NAME["boolq"].lengths.long)
    assert task_lengths(config, "own").long == 100
    manifest = tmp_path / "data/boolq/manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"lengths": {"mean": 1}}')
    assert task_lengths(config, "boolq") == typical
    manifest.write_text(json.dumps({"lengths": vars(typical) | {"rows": [3, 4], "long": 9}}))
    assert (task_lengths(config, "boolq").rows, task_lengths(config, "boolq").long) == ((3, 4), 9)
