"""A text that a model samples has the model's distribution, and the same settings give the same tokens."""

import json
from pathlib import Path

import pytest
import torch
from project import refused, succeed, tree
from sparseft.data.settings import TOGETHER, CalibrationText
from sparseft.data.texts import read_documents
from sparseft.models.checkpoints.checkpoint import Checkpoint
from sparseft.models.language_model.model import load_model
from sparseft.models.language_model.sampling import sample_windows
from tiny_models import MODELS, change_json, save_tiny

CPU = torch.device("cpu")


def asked(**values: object) -> CalibrationText:
    return CalibrationText(**{"text": "self", "examples": 20, "length": 12, **values})


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
@pytest.mark.long
def test_every_token_is_drawn_from_the_softmax_of_the_whole_sequence_before_it(tiny_models32, name):
    # Longer than the windows of attention of these models.
    model, tokenizer = load_model(tiny_models32[name], CPU)
    text = asked(length=80, temperature=0.8, seed=3)
    windows = torch.tensor([window.ids for window in sample_windows(model, tokenizer, text)])
    generator = torch.Generator().manual_seed(3)
    for batch in windows.split(TOGETHER):
        assert (batch[:, 0] == tokenizer.bos_token_id).all()
        # All positions at once, without a cache.
        probabilities = (model(batch).logits.float() / 0.8).softmax(-1)
        for position in range(79):
            drawn = torch.multinomial(probabilities[:, position], 1, generator=generator)
            assert torch.equal(drawn[:, 0], batch[:, position + 1]), position


def test_another_seed_gives_other_tokens_and_no_setting_of_a_generation_applies(tiny_models32):
    model, tokenizer = load_model(tiny_models32["llama"], CPU)
    windows = sample_windows(model, tokenizer, asked())
    assert windows != sample_windows(model, tokenizer, asked(seed=1))
    model.generation_config.update(temperature=0.01, top_k=1, eos_token_id=list(range(260)), max_length=3)
    assert windows == sample_windows(model, tokenizer, asked())


def test_the_file_has_the_very_tokens_and_says_where_they_come_from(tiny_models, tmp_path):
    written, again = tmp_path / "texts/self.jsonl", tmp_path / "again/self.jsonl"
    for output in (written, again):
        succeed("sample_text.py", model_path=tiny_models["llama"], output=output, examples=20, length=30, seed=5)
    model, tokenizer = load_model(tiny_models["llama"], CPU)
    windows = sample_windows(model, tokenizer, asked(length=30, seed=5))
    rows = [json.loads(line) for line in written.open()]
    assert [row["ids"] for row in rows] == [window.ids for window in windows]
    assert read_documents(written)[0] == [tokenizer.decode(window.ids) for window in windows]
    # Written and read again, the text gives other tokens.
    assert any(tokenizer.encode(row["text"]) != row["ids"] for row in rows)
    source = json.loads(Path(f"{written}.json").read_text())["source"]
    sampled = {"examples": 20, "length": 30, "seed": 5, "temperature": 1.0}
    assert source == {"model": Checkpoint(tiny_models["llama"]).digest, "sampled": sampled}
    assert tree(again.parent) == tree(written.parent)


@pytest.mark.parametrize(("flags", "fault"), [
    ({"length": 513}, "llama: windows of 513 tokens, but the model takes 512; "),
    ({"temperature": 1e-300}, "probability tensor contains either `inf`, `nan`"),
    ({"output": "text.txt"}, "--output text.txt: not a .jsonl file"),
])  # fmt: skip
def test_what_cannot_be_sampled_is_refused_in_one_line(tmp_path, tiny_models, monkeypatch, flags, fault):
    monkeypatch.chdir(tmp_path)
    flags = {"model_path": tiny_models["llama"], "output": "text.jsonl"} | flags
    assert fault in refused(tmp_path, "sample_text.py", **flags)


def test_a_model_that_samples_only_the_end_of_text_is_refused_in_one_line(tmp_path):
    folder = save_tiny("qwen2", tmp_path / "model", torch.float32)
    change_json(folder / "tokenizer_config.json", bos_token=None)
    model, tokenizer = load_model(folder, CPU)
    end = tokenizer.eos_token_id
    # A text begins with the token that ends one if the tokenizer has none that begins one.
    assert [window.ids[0] for window in sample_windows(model, tokenizer, asked())] == 20 * [end]
    with torch.no_grad():
        # After tokens that are all the same, every position has the same output.
        state = model.model(torch.tensor([[end]])).last_hidden_state[0, 0]
        model.lm_head.weight.zero_()
        model.lm_head.weight[end] = 100 * state
    model.save_pretrained(folder)
    line = refused(tmp_path, "sample_text.py", model_path=folder, output=tmp_path / "self.jsonl", length=16)
    assert f"{folder}: 100 % of the tokens that the model samples are </s>" in line
