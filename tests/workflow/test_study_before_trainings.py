"""A study that was made before the grid had `trainings`.

study_before_trainings.json has what Snakemake recorded of the jobs of the small study when commit 2375fc0 ran it: the
files that each job made and read, and its parameters. 2375fc0 is the last commit without `grid.trainings`. Left out are:
- the digests of code, which change with every edit of a job's code;
- the job that writes configuration.yaml, whose parameter is the text of the whole configuration.
"""

import base64
import json
import re
from pathlib import Path

import pytest
from project import Study

JOBS = json.loads(Path(__file__).with_name("study_before_trainings.json").read_text())
DIGEST = re.compile("[0-9a-f]{64}")
RUN = "results/runs/llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"


def record_of(study: Study, output: str) -> Path:
    """Return the file in which Snakemake keeps the record of `output`."""
    name = base64.b64encode(output.encode(), b"@-").decode()
    return study.folder / ".snakemake/metadata" / name


def lay_over(study: Study, job: dict, source: str) -> None:
    """Record the files and parameters of `job` for each of its outputs; the digests of code stay those of today."""
    for output in job["output"]:
        file = record_of(study, output)
        record = json.loads(file.read_text())
        digests = [parameter for parameter in record["params"] if DIGEST.search(parameter)]
        record["input"] = [name.replace("SOURCE", source) for name in job["input"]]
        record["params"] = [text.replace("SOURCE", source) for text in job["params"]] + digests
        file.write_text(json.dumps(record))


@pytest.fixture
def old_study(own_study) -> Study:
    """The small study with the records of 2375fc0."""
    configured = (own_study.folder / "study.yaml").read_text()
    source = re.search(r"source: path:(.+)", configured)[1]
    for job in JOBS:
        lay_over(own_study, job, source)
    return own_study


def test_it_makes_its_tables_again_and_nothing_else(old_study):
    # analyze.py has flags that 2375fc0 did not have.
    assert old_study.planned() == {"analyze_results": 1, "analyze": 1}


def test_the_comparison_sees_a_parameter_and_a_file_that_differ(old_study):
    training = next(job for job in JOBS if f"{RUN}/train.json" in job["output"])
    renamed = {**training, "params": [text.replace(RUN.rpartition("/")[2], "other") for text in training["params"]]}
    lay_over(old_study, renamed, "")
    assert old_study.planned()["train_adapter"] == 1
    lay_over(old_study, {**training, "input": training["input"][1:]}, "")
    assert old_study.planned()["train_adapter"] == 1
    lay_over(old_study, training, "")
    assert "train_adapter" not in old_study.planned()
