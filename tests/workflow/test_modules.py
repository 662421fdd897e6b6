"""Another workflow imports this one."""

import shutil

import pytest
import yaml
from project import ROOT, Study

RUN = "results/runs/llama-boolq_mini-unstructured-sparsity50-no_finetune-seed0"


@pytest.fixture
def importing(own_study):
    """Return a function that imports a Snakefile in the folder of a finished study, in a Snakefile with a job of its
    own."""

    def write(snakefile: str, words: str = "") -> Study:
        # An importing workflow gives the whole configuration.
        shutil.copy(own_study.folder / "results/analysis/configuration.yaml", own_study.folder / "study.yaml")
        (own_study.folder / "Snakefile").write_text(
            "shell.prefix('SET=theirs; ')\n"
            f"module sparseft:\n    snakefile: {snakefile}\n    config: config\n"
            f"use rule * from sparseft {words}\n"
            f"rule copy:\n    input: '{RUN}/validation_report.json'\n    output: 'copy.json'\n"
            "    shell: '[ \"$SET\" = theirs ] && cp {input} {output}'\n"
        )
        # The importing workflow has no library.
        return Study(own_study.folder, own_study.folder)

    return write


def test_a_finished_study_stays_finished_and_the_importing_workflow_uses_its_files(importing):
    study = importing(repr(str(ROOT / "workflow/Snakefile")), "as sparseft_*")
    # Those that docs/index.md names. The default ones see that another test process may have made the study.
    triggers = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())["rerun-triggers"]
    assert study.planned("sparseft_analyze", "--rerun-triggers", *triggers) == {}
    (study.folder / RUN / "validation_report.json").unlink()
    report = (study.folder / RUN / "evaluation.json").read_bytes()
    study.snakemake("copy.json", "--cores", "1", "--rerun-triggers", *triggers)
    assert study.json("copy.json")["passed"]
    assert (study.folder / RUN / "evaluation.json").read_bytes() == report


def test_a_prefix_is_refused(importing):
    printed = importing(f"{str(ROOT / 'Snakefile')!r}\n    prefix: 'sparse'").snakemake("--dry-run", expect=2)
    assert "error: the module sparseft has a prefix; " in printed
