"""Build models without weights."""

from dataclasses import replace
from pathlib import Path
from weakref import ref

import pytest
import torch
from sparseft.axes.architectures.llama import LLAMA
from sparseft.common.errors import InputError
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import SDPA, empty_model, load_model, load_tokenizer
from sparseft.models.language_model.placement import StoredWeights
from tiny_models import change_json, edited, save_tiny
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

CPU = torch.device("cpu")
NORM = "model.norm.weight"


def altered(folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """Return the folder of a tiny LLaMA in bfloat16 whose tensors are changed; None removes one."""
    with edited(save_tiny("llama", folder)) as weights:
        weights |= changes
        for name in [name for name, weight in changes.items() if weight is None]:
            del weights[name]
    return folder


def test_a_loaded_model_is_that_of_transformers_and_an_empty_one_lacks_its_weights(tiny):
    stock = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype="auto")
    loaded, empty = load_model(tiny.folder, CPU)[0], empty_model(Checkpoint(tiny.folder))
    weights = dict(stock.named_parameters())
    for model in (loaded, empty):
        assert model.config.to_dict() == stock.config.to_dict()
        assert model.generation_config == stock.generation_config
        assert not model.training
        ours = dict(model.named_parameters())
        assert [(name, value.shape, value.dtype) for name, value in ours.items()] == [
            (name, value.shape, value.dtype) for name, value in weights.items()
        ]
        assert all(own.is_meta if model is empty else torch.equal(own, weights[name]) for name, own in ours.items())
        buffers = dict(model.named_buffers())
        for name, buffer in stock.named_buffers():
            assert torch.equal(buffers.pop(name), buffer)
        assert not buffers


def test_the_rotary_buffers_of_an_old_checkpoint_are_no_fault_and_have_no_say(tmp_path):
    folder = altered(tmp_path / "m", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    change_json(folder / "config.json", dtype=None)
    assert empty_model(Checkpoint(folder)).dtype == load_model(folder, CPU)[0].dtype == torch.bfloat16


FIT = r"m: it does not fit its config\.json: .*"


@pytest.mark.parametrize(("tensors", "keys", "fault"), [
    ({NORM: None}, {}, rf"{FIT}model\.norm\.weight.*; repair or replace"),
    ({NORM: torch.ones(32)}, {}, r"m: model\.norm\.weight is in F32, .* in torch\.bfloat16; prepare the model"),
    ({}, {"dtype": "float32"}, r"is in BF16, but its config.json describes a model in torch\.float32"),
    ({}, {"model_type": "mistral"}, "its model_type makes transformers load MistralForCausalLM"),
])  # fmt: skip
def test_a_model_that_does_not_fit_its_files_is_refused(tmp_path, tensors, keys, fault):
    folder = altered(tmp_path / "m", tensors)
    change_json(folder / "config.json", **keys)
    with pytest.raises(InputError, match=fault):
        empty_model(Checkpoint(folder))


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(tmp_path):
    folder = save_tiny("llama", tmp_path / "m")
    change_json(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="end-of-sequence.*eos_token"):
        load_tokenizer(folder)


def test_a_model_for_another_device_is_read_weight_by_weight(tiny_models, monkeypatch):
    read, weights = StoredWeights.__getitem__, []

    def get(self, name: str) -> torch.Tensor:
        assert not any(weight() is not None for weight in weights)
        weight = read(self, name)
        weights.append(ref(weight))
        return weight

    monkeypatch.setattr(StoredWeights, "__getitem__", get)
    model, _ = load_model(tiny_models["mixtral"], torch.device("meta"))
    assert len(weights) == len(list(model.parameters()))


@pytest.mark.parametrize(("attention", "name"), [("sdpa", SDPA), ("eager", "eager")])
def test_the_attention_is_that_of_the_architecture(tiny_models, monkeypatch, attention, name):
    monkeypatch.setattr("sparseft.axes.architectures.ARCHITECTURES", (replace(LLAMA, attention=attention),))
    model, _ = load_model(tiny_models["llama"], CPU)
    assert model.config._attn_implementation == name
    # Models that others load in this process keep the attention of transformers.
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward


@pytest.mark.parametrize(("dtype", "tokens", "grouped"), [
    (torch.float32, 5, False), (torch.float32, 1, True), (torch.bfloat16, 5, True),
])  # fmt: skip
def test_grouped_heads_in_float32_are_repeated_where_torch_would_keep_all_scores(monkeypatch, dtype, tokens, grouped):
    calls = []

    def note(query, key, value, *, enable_gqa=False, **_):
        calls.append((key.shape[1], value.shape[1], enable_gqa))
        return query

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
    )
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=SDPA)(
            torch.zeros(1, tokens, dtype=torch.long)
        )
    assert calls == [(2, 2, True) if grouped else (4, 4, False)]
