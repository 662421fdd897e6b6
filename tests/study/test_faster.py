"""The recipe for a faster model: its second step trains what the first one has shown."""

import re
import shlex

import yaml
from project import ROOT, laid_over
from sparseft.study.targets import runs

FILE = ROOT / "studies/faster.yaml"


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
    first = laid_over(yaml.safe_load(FILE.read_text()))
    assert (config.original("chosen"), first.original("shorter")) == ("chosen", "smollm2")
    assert config.results != first.results
    # No pruned base depends on a task, so that the first step serves every task.
    assert first.texts_read() == ["divergence", "self"]
