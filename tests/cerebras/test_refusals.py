"""Bad input: one line, exit code 2, no adapter and no measurement."""

import re

import pytest

RUN = "llama-unstructured-50-sparse_to_sparse"
OTHER_RELEASE = (
    "import importlib.metadata as m; real = m.version;"
    " m.version = lambda name: '2.5.0' if name == 'cerebras-pytorch' else real(name)"
)
MEASURED = {"script": "measure_cerebras.py", "batch_size": 6, "micro_batch_size": 6, "steps": 6, "warmup_steps": 2}


@pytest.mark.parametrize(("options", "line"), [
    ({"patch": OTHER_RELEASE}, "error: cerebras-pytorch 2.5.0; .*2.6.0 or 2.10.0"),
    ({}, "error: ClusterConfigError: .*mgmt_address.*; run on the appliance's user node"),
    ({"sequence_length": 40}, "examples have more than 40 .* 44 of 44 rows, .*number 1"),
    ({"sequence_length": 513}, "error: cerebras.sequence_length 513: .*512 tokens"),
    ({"compile_only": True, "target": "CPU"}, "error: cerebras.target CPU "),
    (MEASURED, "error: --steps 6: 4 steps after the warm-up; measure at least 100 .*throughput.steps"),
    (MEASURED | {"target": "CPU", "warmup_steps": 6}, "error: --steps 6: .*6 of warm-up"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(inputs, tmp_path, options, line):
    done = inputs.train(tmp_path / "run", RUN, **options)
    assert done.returncode == 2
    assert re.search(line, done.stderr.splitlines()[-1])
    assert [text.startswith("error: ") for text in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {"cerebras_logs"}
