"""Check that a study that was made before `grid.trainings` existed only makes its tables again.

study_before_trainings.json has what Snakemake recorded of the jobs of the small study when commit 2375fc0 ran it: the
files that each job made and read, and its parameters. SOURCE is the model's folder. 2375fc0 is the last commit without
`grid.trainings`. The tests lay these records over the small study, and delete every file that 2375fc0 did not make.

What stays as it is today:
- the digests of code and of other files of the project, because they change with every edit;
- configuration.yaml, whose parameter is the text of the whole configuration. An old study writes it again, with the new keys.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest
from project import Study

JOBS = json.loads(Path(__file__).with_name("study_before_trainings.json").read_text())
DIGEST = re.compile("[0-9a-f]{64}")
RUN = "llama-boolq_mini-unstructured-sparsity50-sparse_to_dense-seed0"
CONFIGURATION = "results/analysis/configuration.yaml"


def records(study: Study) -> Path:
    """Return the folder in which Snakemake keeps a record of each file. The name of a record is the file's, in base64."""
    return study.folder / ".snakemake/metadata"


def lay_over(study: Study, job: dict, source: str = "") -> None:
    """Record the files and parameters of `job` for each file that it made. The digests stay those of today."""
    for output in job["output"]:
        file = records(study) / urlsafe_b64encode(output.encode()).decode()
        record = json.loads(file.read_text())
        digests = [parameter for parameter in record["params"] if DIGEST.search(parameter)]
        record["input"] = [name.replace("SOURCE", source) for name in job["input"]]
        record["params"] = [text.replace("SOURCE", source) for text in job["params"]] + digests
        file.write_text(json.dumps(record))


def delete_new_files(study: Study) -> list[str]:
    """Delete every file that 2375fc0 did not make, and return their names."""
    known = {CONFIGURATION, *(output for job in JOBS for output in job["output"])}
    made = {urlsafe_b64decode(record.name).decode() for record in records(study).iterdir()}
    assert known <= made
    for name in made - known:
        (study.folder / name).unlink()
    return sorted(made - known)


@pytest.fixture
def old_study(own_study) -> Study:
    """The small study with the records of 2375fc0."""
    configured = (own_study.folder / "study.yaml").read_text()
    source = re.search(r"source: path:(.+)", configured)[1]
    for job in JOBS:
        lay_over(own_study, job, source)
    return own_study


def test_it_makes_its_tables_again_and_nothing_else(old_study):
    assert delete_new_files(old_study) == ["results/analysis/settings.csv"]
    # analyze_results.py has flags that 2375fc0 did not have.
    assert old_study.planned() == {"analyze_results": 1, "analyze": 1}


def test_the_comparison_sees_a_parameter_and_a_file_that_differ(old_study):
    training = next(job for job in JOBS if f"results/runs/{RUN}/train.json" in job["output"])
    renamed = {**training, "params": [text.replace(RUN, "other") for text in training["params"]]}
    lay_over(old_study, renamed)
    assert old_study.planned()["train_adapter"] == 1
    lay_over(old_study, {**training, "input": training["input"][1:]})
    assert old_study.planned()["train_adapter"] == 1
    lay_over(old_study, training)
    assert "train_adapter" not in old_study.planned()
