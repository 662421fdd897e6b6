"""Test `snakemake ship`: from a wish and a text to the folder to serve, with what the candidates cost and say."""

import json
import random
import shutil

import pandas as pd
import pytest
import torch
from project import Study
from sparseft.models.checkpoints.checkpoint import Checkpoint
from tiny_models import save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

WORDS = "the cat saw a dog and ran over green hills where old men sing of rain".split()


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_models) -> Study:
    """Return a study of a tiny model with a wish that its channels must fulfil, after `snakemake ship`."""
    study = Study(tmp_path_factory.mktemp("ship"))
    words = random.Random(0).choices(WORDS, k=12_000)
    (study.folder / "own.txt").write_text(" ".join(words))
    size = (tiny_models["llama"] / "model.safetensors").stat().st_size
    study.configure(
        {"tiny": tiny_models["llama"]},
        ship={"model": "tiny", "bytes": 0.95 * size, "candidates": ["channels"], "texts": ["own.txt"]},
        tasks={"ship": {"training": {"steps": 2, "batch_size": 2, "micro_batch_size": 2, "lora_r": 4}}},
        export={"prompts": 2, "prompt_tokens": 16, "new_tokens": 4, "repeats": 2},
    )
    study.snakemake("ship", "--cores", "2")
    return study


@pytest.mark.slow
def test_the_chosen_folder_has_the_perplexity_that_the_frontier_says(study):
    table = pd.read_csv(study.folder / "results/ship/tiny/frontier.csv")
    folder = study.folder / "results/ship/tiny/chosen"
    chosen = study.json("results/ship/tiny/chosen/ship.json")
    row = table[table.name == chosen["chosen"]].iloc[0]
    assert row.reaches and row.candidate.endswith("% (channels)")
    assert row.bytes == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    lines = (study.folder / "data/calibration_shiptest-tiny.jsonl").read_text().splitlines()
    losses = []
    for ids in (torch.tensor([json.loads(line)["ids"]]) for line in lines):
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
    assert row.own_perplexity == pytest.approx(float(torch.stack(losses).mean().exp()), rel=1e-3)


@pytest.mark.slow
def test_every_candidate_is_compared_with_dense_trained_alike_on_the_same_windows(study):
    table = pd.read_csv(study.folder / "results/ship/tiny/frontier.csv").set_index("candidate")
    alike = table.loc["dense, trained on the same texts"]
    assert set(table.index) >= {"dense", alike.name} and len(table) == 3
    for row in table.itertuples():
        assert row.own_ratio == pytest.approx(row.own_perplexity / alike.own_perplexity)
        assert alike.name == row.Index or row.own_ratio_low < row.own_ratio < row.own_ratio_high
    assert table.loc["dense"].divergence == pytest.approx(0, abs=0.01)
    assert table.loc["dense"].speed == 1
    # What was measured on the CPU says nothing about a GPU.
    with study.edited("\nship:", "\nresources:\n  gpus: 1\nship:"):
        assert "find_shares" in study.planned("ship")


@pytest.mark.slow
def test_a_candidate_learns_from_the_dense_model_that_was_trained_on_its_texts(study):
    (dense,) = study.folder.glob("results/runs/tiny-ship-*sparsity00*")
    (pruned,) = study.folder.glob("results/runs/tiny-ship-structured_obs*-full_sparse_to_sparse-*")
    assert study.json(dense / "train.json")["inputs"]["dense"] == Checkpoint(study.folder / "models/tiny").digest
    assert study.json(pruned / "train.json")["inputs"]["dense"] == Checkpoint(dense / "export").digest


@pytest.mark.slow
def test_the_parts_of_a_text_have_no_window_in_common(study):
    texts = [
        {json.loads(line)["text"] for line in (study.folder / f"data/calibration_{name}-tiny.jsonl").open()}
        for name in ("ship", "shiptrain", "shiptest")
    ]
    assert len(set.union(*texts)) == sum(map(len, texts)) and min(map(len, texts)) >= 4


@pytest.mark.slow
def test_the_card_has_both_dense_models_and_the_findings(study):
    card = (study.folder / "results/ship/tiny/chosen/README.md").read_text()
    assert "| dense " in card and "| dense, trained on the same texts " in card
    findings = (study.folder / "results/ship/tiny/findings.txt").read_text()
    assert findings.startswith("- Take ") and len(findings.splitlines()) == 3


def test_without_a_text_the_model_samples_those_of_the_calibration_and_of_the_training(tmp_path, tiny_models):
    ship = {"model": "tiny", "speed": 1.3, "candidates": ["channels"]}
    study = Study(tmp_path).configure({"tiny": tiny_models["llama"]}, ship=ship)
    texts = [f"data/calibration_{name}-tiny.jsonl" for name in ("ship", "shiptrain", "divergence")]
    assert study.planned(*texts) == {"prepare_model": 1, "sample_text": 3}


def test_formats_need_llama_cpp(tmp_path, tiny_models):
    ship = {"model": "tiny", "speed": 1.3, "formats": ["q8_0"]}
    study = Study(tmp_path).configure({"tiny": tiny_models["llama"]}, ship=ship, export={"converter": "a b"})
    assert "ship.formats are those of llama_cpp" in study.snakemake("ship", "--dry-run", expect=2)


@pytest.mark.slow
def test_a_sibling_reads_the_answers_of_the_dense_model_with_its_own_tokenizer(tmp_path, tiny_models):
    """The dense model's answers to prompts are the text, and no shape of the dense model is small enough."""
    with open(tmp_path / "asked.jsonl", "w") as file:
        file.writelines(json.dumps({"text": f"what does {word} say"}) + "\n" for word in WORDS * 6)
    dense, sibling = tmp_path / "dense", save_tiny("llama", tmp_path / "sibling", changes={"vocab_size": 260})
    shutil.copytree(tiny_models["llama"], dense)
    for folder, template in ((dense, "{{ messages[0].content }}:"), (sibling, "")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([" says"] if template else [])
        tokenizer.chat_template = template or None
        tokenizer.save_pretrained(folder)
    study = Study(tmp_path).configure(
        {"tiny": dense, "small": sibling},
        ship={"model": "tiny", "bytes": 1000.0, "candidates": ["channels"], "prompts": "asked.jsonl",
              "siblings": ["small"]},
        tasks={"ship": {"training": {"steps": 1, "batch_size": 2, "micro_batch_size": 2}}},
        export={"prompts": 1, "prompt_tokens": 16, "new_tokens": 4, "repeats": 1},
    )  # fmt: skip
    study.snakemake("ship", "--cores", "2")
    assert "No candidate reaches 1,000 bytes." in (tmp_path / "results/ship/tiny/findings.txt").read_text()
    table = pd.read_csv(tmp_path / "results/ship/tiny/frontier.csv")
    assert {"tiny", "small"} < set(table.name) and table.answers_perplexity.notna().all()


@pytest.mark.parametrize(("ship", "words"), [
    ({"model": "tiny", "speed": 1.3, "bytes": 1e6}, "speed and bytes are two wishes; set one"),
    ({"model": "tiny"}, "nothing is wished; set speed or bytes"),
    (None, "nothing is wished; write a section `ship`"),
    ({"model": "tiny", "speed": 1.3, "byte": 1}, "ship.byte: unknown key (the nearest is bytes)"),
    ({"model": "other", "speed": 1.3}, "asks for 'other'"),
    ({"model": "tiny", "speed": 1.3, "siblings": ["none"]}, "ship.siblings asks for 'none'"),
    # It has two decoder layers.
    ({"model": "tiny", "speed": 1.3}, "reaches 12 %; set ship.candidates to [channels]"),
])  # fmt: skip
def test_a_wish_that_cannot_be_served_is_refused(tmp_path, tiny_models, ship, words):
    study = Study(tmp_path).configure({"tiny": tiny_models["llama"]}, ship=ship)
    assert words in study.snakemake("ship", "--dry-run", expect=2)


@pytest.mark.slow
@pytest.mark.parametrize(("ship", "words"), [
    ({"bytes": 1000.0}, "ship.bytes: no candidate reaches it: channels"),
    ({"bytes": 1e9, "texts": ["short.txt"]}, "short has 2 windows of 512 tokens, which are too few to divide"),
])  # fmt: skip
def test_what_cannot_be_fulfilled_ends_in_one_line(tmp_path, tiny_models, ship, words):
    study = Study(tmp_path)
    (tmp_path / "short.txt").write_text("word " * 250)
    study.configure(
        {"tiny": tiny_models["llama"]},
        ship={"model": "tiny", "candidates": ["channels"], **ship},
        export={"prompts": 1, "prompt_tokens": 16, "new_tokens": 4, "repeats": 1},
    )
    assert words in study.snakemake("ship", "--cores", "2", expect=1)
