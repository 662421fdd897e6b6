"""The studies in studies/: each number of a published table is of a cell that its study has."""

import json

import pytest
import yaml
from hub_cache import write
from lm_eval.api.model import LM
from project import ROOT, laid_over, succeed
from sparseft.analysis.baseline import KEYS, read_baseline
from sparseft.data.lm_eval_examples import load_lm_eval_examples
from sparseft.data.settings import TaskData
from sparseft.evaluation.harness import run_harness
from sparseft.study.planning.sizes import NAMED
from sparseft.study.targets import runs

FOLDER = ROOT / "studies/published"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# What config.json of each model says.
LLAMA, LLAMA3, MISTRAL = (
    NAMED[f"hub:{name}"] for name in ("huggyllama/llama-7b", "meta-llama/Meta-Llama-3-8B", "mistralai/Mistral-7B-v0.1")
)
MODELS = {
    "llama_7b": LLAMA | {"max_position_embeddings": 2048},
    "llama2_7b": LLAMA | {"max_position_embeddings": 4096},
    "llama31_8b": LLAMA3 | {"max_position_embeddings": 131072},
    "mistral_7b": MISTRAL | {"max_position_embeddings": 32768, "vocab_size": 32768, "sliding_window": None},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_has_a_cell_in_its_study(name, monkeypatch, tmp_path):
    config = laid_over(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    cells = {(run.model, run.task, run.method, run.sparsity, run.mode) for run in runs(config)}
    baseline = read_baseline(FOLDER / f"{name}.csv")
    assert set(baseline[KEYS].itertuples(index=False, name=None)) <= cells
    (model,) = config.grid.models
    # Each number is the perplexity in windows that the study measures, or the accuracy of its task or of a probe.
    content = MODELS[model]
    accuracies = {"value", "value_before_merge", *(f"probe_{probe}" for probe in config.evaluation.probes)}
    perplexities = set()
    if config.perplexity:
        context = config.perplexity.context
        perplexities = {f"wikitext2_ppl_{content['max_position_embeddings'] if context == 'model' else context}"}
    assert set(baseline["metric"]) <= accuracies | perplexities
    assert (baseline["value"] < 1).equals(baseline["metric"].isin(accuracies))
    assert baseline["note"].notna().all()
    # A merged model is sparse here. So a number of adapters that are dense there compares with ours before the merge.
    dense = baseline[(baseline["mode"] == "sparse_to_dense") & (baseline["sparsity"] > 0)]
    assert set(dense["metric"]) <= {"value_before_merge"}
    assert "value_before_merge" not in set(baseline[baseline["mode"] == "no_finetune"]["metric"])
    # No weights are needed to plan it, only a config.json.
    (tmp_path / f"models/{model}").mkdir(parents=True)
    (tmp_path / f"models/{model}/config.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    printed = succeed("estimate.py", configfile=FOLDER / f"{name}.yaml")
    assert f"{len(runs(config))} runs; " in printed


# Task -> the answer of a row, and texts that a model generates for it with whether they are right.
ANSWERS = {
    "shears_number": ("1200.0", {"3 boxes of 400 are 1,200.": 1, "1200.00": 1, "1200, not 1300": 0, "": 0}),
    "shears_letter": ("B", {"The answer is B": 1, "(B) or (C)": 1, "C, not B": 0, "none": 0}),
}


class Texts(LM):
    loglikelihood = loglikelihood_rolling = None

    def __init__(self, texts):
        super().__init__()
        self.texts = list(texts)

    def generate_until(self, requests):
        return [self.texts[request.doc_id] for request in requests]


@pytest.mark.process  # lm-eval starts git and tools that describe the machine.
@pytest.mark.parametrize("name", ANSWERS)
def test_the_answers_of_shears_are_scored_as_by_its_code(name, tmp_path):
    answer, texts = ANSWERS[name]
    rows = [{"instruction": f"Problem {number}", "output": "so", "answer": answer} for number in range(len(texts))]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.jsonl", rows)
    data = TaskData(lm_eval=str(FOLDER / f"tasks/{name}.yaml"), local=str(tmp_path), answer="{{output}}")
    examples = load_lm_eval_examples("mine", data)
    _, _, outcomes = run_harness(Texts(texts), examples.task, examples.rows)
    assert dict(zip(texts, outcomes, strict=True)) == texts
    assert examples.rows["train"][1]["prompt"].endswith("### Instruction:\nProblem 1\n\n### Response:\n")
    assert examples.rows["train"][1]["answer"].strip() == "so"
