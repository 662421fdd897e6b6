"""The studies of published tables: each number of a baseline is of a cell that its study has, in the setting that it names."""

import json

import pytest
import yaml
from project import ROOT, laid_over, succeed
from sparseft.analysis.baseline import KEYS, read_baseline
from sparseft.study.targets import runs

FOLDER = ROOT / "studies/published"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CONTEXTS = {"llama_7b": 2048, "llama2_7b": 4096}
# config.json of both, but for the context.
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_has_a_cell_in_its_study(name, monkeypatch, tmp_path):
    config = laid_over(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    cells = {(run.model, run.task, run.method, run.sparsity, run.mode) for run in runs(config)}
    baseline = read_baseline(FOLDER / f"{name}.csv")
    assert set(baseline[KEYS].itertuples(index=False, name=None)) <= cells
    (model,) = config.grid.models
    assert set(baseline["metric"]) == {f"wikitext2_ppl_{CONTEXTS[model]}"}
    assert config.perplexity.context == "model"
    assert baseline["note"].notna().all()
    # No weights are needed to plan it, only a config.json.
    (tmp_path / f"models/{model}").mkdir(parents=True)
    content = LLAMA | {"max_position_embeddings": CONTEXTS[model]}
    (tmp_path / f"models/{model}/config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    said = succeed("estimate.py", configfile=FOLDER / f"{name}.yaml")
    trained = sum(run.mode != "no_finetune" for run in runs(config))
    assert f"runs: {len(runs(config))}, of which {trained} are trained" in said


def test_every_study_has_its_numbers():
    assert sorted(path.stem for path in FOLDER.glob("*.csv")) == NAMES
    assert len(NAMES) == 3
