"""ModelZoo's checkpoints as Hugging Face's: the same model converted by ModelZoo 2.10.0."""

from pathlib import Path

import numpy as np
import pytest
from sparseft.checkpoints.checkpoint import Checkpoint
from sparseft.modelzoo.checkpoint import open_checkpoint

FIXTURES = Path(__file__).parents[3] / "shared/fixtures/modelzoo"
HF, CS = FIXTURES / "llama_gqa/hf", FIXTURES / "llama_gqa/cs/model_to_cs-2.5.mdl"
needs_fixtures = pytest.mark.skipif(not FIXTURES.exists(), reason="needs ModelZoo's files in ../shared/fixtures")


@needs_fixtures
def test_what_modelzoo_converted_reads_as_the_original():
    original, converted = Checkpoint(HF), open_checkpoint(Path(f"{CS}@{HF}"))
    assert converted.tensors.keys() == original.tensors.keys()
    assert len(original.tensors) == 21
    for name, tensor in original.tensors.items():
        assert (converted.tensors[name].dtype, converted.tensors[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(converted.read(name), original.read(name), name)
