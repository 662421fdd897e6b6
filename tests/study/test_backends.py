"""The table of training backends: everything that depends on a backend hangs on its value."""

import pytest
from project import ROOT, laid_over
from sparseft.errors import InputError
from sparseft.planning.inputs import check_sources
from sparseft.study.backends import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_each_backend_is_a_choice_with_a_rules_file_and_code_of_its_own(backend):
    study = laid_over({"backend": backend.name})
    assert study.training_backend is backend
    assert (ROOT / backend.rules).is_file()
    code = ROOT / "lib/sparseft/trainers" / backend.name
    script = ROOT / f"workflow/scripts/train_{backend.name}.py"
    assert code.is_dir() or code.with_suffix(".py").exists() or script.exists()


@pytest.mark.parametrize(
    ("backend", "name", "is_trained"),
    [
        ("torch", "qwen3", True),
        ("cerebras", "mixtral", True),
        ("cerebras", "qwen2", False),
        ("modelzoo", "llama", True),
        ("modelzoo", "mixtral", False),
    ],
)
def test_a_model_that_a_backend_does_not_train_is_refused_before_anything_runs(tiny_models, backend, name, is_trained):
    models = {"mine": {"source": f"path:{tiny_models[name]}"}}
    config = laid_over({"backend": backend, "models": models, "grid": {"models": ["mine"]}})
    if is_trained:
        return check_sources(config)
    line = rf"^models\.mine: the backend {backend} does not train \w+; use one of LlamaForCausalLM, .*backend: torch"
    with pytest.raises(InputError, match=line):
        check_sources(config)
