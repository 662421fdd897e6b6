"""The recipe for a faster model: what it asks for, and that both of its steps can be planned."""

import re
import shlex

import yaml
from project import ROOT, laid_over
from sparseft.study.targets import runs

FILE = ROOT / "studies/faster.yaml"


def test_it_removes_channels_layers_and_both_and_learns_a_text_from_dense():
    config = laid_over(yaml.safe_load(FILE.read_text()))
    trained = {(run.model, run.method, run.sparsity) for run in runs(config) if run.mode == "sparse_to_sparse"}
    methods = ("structured_obs", "layers_block_influence")
    assert trained == {
        (model, method, size) for model in ("smollm2", "shorter") for method in methods for size in (20, 30)
    }
    assert config.original("shorter") == "smollm2"
    assert config.training_of("general").distillation.weight > 0
    # Both are also calibrated on what the model samples, so no base depends on a task.
    assert config.texts_read() == ["divergence", "self"]
    assert config.analysis.wished_speedup == 1.3


def test_its_second_step_trains_the_chosen_model_and_dense_on_the_task():
    """The command at the head of the file, laid over the file as Snakemake does."""
    head = re.sub(r"^# ?", "", FILE.read_text().partition("\nmodels:")[0], flags=re.MULTILINE).replace("\\\n", "")
    (command,) = [line for line in head.splitlines() if "--config results=" in line]
    pairs = [word.partition("=")[::2] for word in shlex.split(command.partition("--config ")[2])]
    sections = yaml.safe_load(FILE.read_text())
    for name, text in pairs:
        value = yaml.safe_load(text)
        sections[name] = sections[name] | value if isinstance(value, dict) else value
    config = laid_over(sections)
    assert {(run.model, run.task, run.method, run.mode) for run in runs(config)} == {
        (model, "hellaswag", "dense", mode)
        for model in ("smollm2", "chosen")
        for mode in ("no_finetune", "sparse_to_dense")
    }
    assert config.original("chosen") == "chosen"
    assert config.results != laid_over(yaml.safe_load(FILE.read_text())).results
