"""Bad input: one line, exit code 2, no adapter and no measurement."""

import re

import pytest
from runs import DEFAULT_PYTHON

RUN = "llama-unstructured-50-sparse_to_sparse"
OTHER_RELEASE = (
    "import importlib.metadata as m; real = m.version;"
    " m.version = lambda name: '2.5.0' if name == 'cerebras-pytorch' else real(name)"
)
MEASURED = {"script": "measure_cerebras.py", "batch_size": 6, "micro_batch_size": 6, "steps": 6, "warmup_steps": 2}


@pytest.mark.parametrize(("options", "line"), [
    ({"python": DEFAULT_PYTHON}, "has no cerebras-pytorch .*'cerebras"),
    ({"patch": OTHER_RELEASE}, "error: cerebras-pytorch 2.5.0; .*2.6.0 or 2.10.0"),
    ({"job_labels": "name=a b"}, "error: --job_labels.*pattern"),
    ({}, "error: ClusterConfigError: .*mgmt_address.*; run on the appliance's user node"),
    ({"sequence_length": 40}, "examples: 44 of 44 .* 40 .*number 1"),
    ({"sequence_length": 513}, "error: cerebras.sequence_length 513: .*512 tokens"),
    ({"cache_weights": True}, "error: training.cache_weights True: Cerebras"),
    ({"compile_only": True, "target": "CPU"}, "error: cerebras.target CPU "),
    (MEASURED, "error: throughput.steps 4: .* 100 steps"),
    (MEASURED | {"target": "CPU", "warmup_steps": 6}, "error: ValidationError: .*should be greater than 0"),
    (MEASURED | {"target": "CPU", "sequence_length": 40}, "more than 40 tokens"),
    (MEASURED | {"steps": 102}, "error: ClusterConfigError"),
])  # fmt: skip
def test_bad_input_is_told_in_one_line(inputs, tmp_path, options, line):
    done = inputs.train(tmp_path / "run", RUN, **options)
    assert done.returncode == 2
    assert re.search(line, done.stderr.splitlines()[-1])
    assert [text.startswith("error: ") for text in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {"cerebras_logs"}
