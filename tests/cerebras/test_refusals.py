"""Bad input: one line, exit code 2, no adapter."""

import re

import pytest
from runs import DEFAULT_PYTHON

RUN = "llama-unstructured-50-sparse_to_sparse"
OTHER_RELEASE = (
    "import importlib.metadata as m; real = m.version;"
    " m.version = lambda name: '2.5.0' if name == 'cerebras-pytorch' else real(name)"
)
CHANGES_THE_BASE = (
    "import sparseft.backends.cerebras.trainer as c; real = c.check_frozen;"
    " c.check_frozen = lambda module, base, step: (module.model.lm_head.weight.data.neg_(), real(module, base, step))"
)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"python": DEFAULT_PYTHON}, "has no cerebras-pytorch .*'cerebras"),
        ({"patch": OTHER_RELEASE}, "error: cerebras-pytorch 2.5.0; .*2.6.0 or 2.10.0"),
        ({"job_labels": "name=a b"}, "error: cerebras: job_labels.0: .*pattern"),
        ({}, "no Cerebras appliance .*mgmt_address"),
        ({"mount_dirs": "/no/such"}, "error: cerebras: .*/no/such does not exist"),
        ({"mask_path": "mistral_unstructured.pt"}, "mask of another model"),
        ({"sequence_length": 40}, "examples: 44 of 44 .* 40 .*number 1"),
        ({"sequence_length": 513}, "error: cerebras.sequence_length 513: .*512 tokens"),
        ({"lora_dropout": 0.1}, "error: training.lora_dropout .*sparse_to_sparse"),
        ({"cache_weights": True}, "error: training.cache_weights: .*Cerebras"),
        ({"patch": CHANGES_THE_BASE, "target": "CPU"}, "error: step 1 changed .*model.model.embed_tokens.weight"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(inputs, tmp_path, options, line):
    if "mask_path" in options:
        options = options | {"mask_path": inputs.folder / options["mask_path"]}
    done = inputs.train(tmp_path / "run", RUN, **options)
    assert done.returncode == 2
    assert re.search(line, done.stderr.splitlines()[-1])
    assert [text.startswith("error: ") for text in done.stderr.splitlines()].count(True) == 1
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {"cerebras_logs"}


def test_nothing_is_compiled_for_the_cpu(inputs, tmp_path):
    done = inputs.train(tmp_path, RUN, "--compile_only", target="CPU")
    assert done.returncode == 2
    assert re.match("error: cerebras.target CPU ", done.stderr.splitlines()[-1])
