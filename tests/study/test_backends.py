"""A study is refused whose model its training backend does not train."""

import pytest
from project import laid_over
from sparseft.errors import InputError
from sparseft.planning.inputs import check_sources


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
