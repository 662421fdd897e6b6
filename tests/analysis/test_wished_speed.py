"""The sentence about speed names the models that a reader finds by hand in a small table, in the words of what was
measured."""

import re
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from analysis.frames import make_study
from project import laid_over
from records.sound_records import check_engines
from sparseft.analysis.pages import verdict_rows, write_pages
from sparseft.analysis.sentences import speed_sentences
from sparseft.analysis.study import read_study
from sparseft.analysis.tables import compute
from sparseft.errors import InputError
from sparseft.grid import FINDINGS, Run
from sparseft.study.config import Analysis

WISH = Analysis(wished_speedup=1.3)
MODE = "no_finetune"
# method, sparsity, mode, value; the loss is 2 - value.
DENSE = ("dense", 0, MODE, 0.96)
ZEROS = ("unstructured", 20, MODE, 0.96)
NARROW = ("structured", 20, MODE, 0.95)
NARROWER = ("structured", 40, MODE, 0.72)
SHORT = ("layers_random", 30, MODE, 0.70)
TRAINED = ("dense", 0, "sparse_to_dense", 0.98)
LEARNED = ("structured", 40, "sparse_to_sparse", 0.80)
# By method and sparsity: the speed with its interval, and the verdict.
KNOWN = {
    ("dense", 0): (1.0, 0.9, 1.1, None),
    ("structured", 20): (1.2, 1.1, 1.3, "within"),
    ("structured", 40): (1.35, 1.3, 1.4, "lower"),
    ("layers_random", 30): (1.4, 1.3, 1.5, "lower"),
    ("unstructured", 20): (1.25, 0.9, 1.6, "within"),
}


def said(cells: list[tuple], *, speeds: bool = True, **changes) -> list[str]:
    """Return the sentences about cells. `changes` replaces columns by lists, in the order of the cells."""
    study = make_study(cells)
    for place, end in enumerate(("", "_low", "_high") if speeds else ()):
        study.curves[f"transformers_speedup{end}"] = [KNOWN[cell[:2]][place] for cell in cells]
    study = replace(study, curves=study.curves.assign(**changes))
    cells_of = zip(study.comparisons["method"], study.comparisons["sparsity"], strict=True)
    pairs = study.comparisons.assign(verdict=[KNOWN[cell][3] for cell in cells_of])
    return speed_sentences(verdict_rows(study), pairs, WISH)


ALL = [DENSE, ZEROS, NARROW, NARROWER, SHORT]
# The cells, what is changed in them, and what the sentence about them says.
CASES = {
    # 1.25 with an interval that contains 1 is no gain. 0.72 and 0.70 overlap, so the loss of 1.28 decides.
    "overlap": (
        ALL, {},
        "the fastest of 4 .* structured 20 .15.0. % .* 1.20 .1.10, 1.30.; .* structured 40 .30.0. % .* eval_loss 1.280"
    ),
    "the perplexity of a trained model is a multiple of dense as it was, and of dense trained too": (
        [DENSE, TRAINED, LEARNED], {"wikitext2_ppl_512": [30, 20, 36]},
        r"wikitext2_ppl_512 36.000 .original model 30.000, x 1.20, dense with LoRA 20.000, x 1.80.\.$"
    ),
    "the headline decides if it can": (
        ALL,
        {"value_low": [0.93, 0.93, 0.92, 0.62, 0.60], "value_high": [0.99, 0.99, 0.98, 0.82, 0.61]},
        "structured 40 .30.0. % .* acc 0.719 .* .original model 0.953.",
    ),
    "some are not measured, and a single measurement has no interval": (
        [DENSE, NARROW, SHORT],
        {"transformers_speedup": [1, 1.2, None], "transformers_speedup_low": [1, None, None]},
        "of 1 pruned models .1 more are not measured. .* 20 .15.0. % .no_finetune., x 1.20; none that is .* x 1.3",
    ),
    "a model with a fault supports no sentence": (
        [DENSE, NARROW, SHORT], {"status": ["sound", "sound", "fault"]}, "the fastest of 1 .* structured 20 .15.0. %"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_sentence_is_what_a_reader_finds_in_the_table(case):
    cells, changes, words = CASES[case]
    (sentence,) = said(cells, **changes)
    assert re.search(words, sentence), sentence


def test_each_engine_has_its_sentence_and_a_study_without_a_sound_pruned_model_has_none():
    sentences = said(ALL, vllm_speedup=[1, 1, 1.5, 2, 3], vllm_speedup_low=None, vllm_speedup_high=None)
    assert [sentence.partition(",")[0] for sentence in sentences] == ["In transformers", "In vllm"]
    best = "the best with x 1.3 or faster is structured 20 (15.0) % (no_finetune), x 1.50, acc 0.953"
    assert f"x 1.50; {best}" in sentences[1]
    assert said(ALL, status="fault") == []
    assert said(ALL, speeds=False) == []


@pytest.mark.parametrize(("verdicts", "is_near"), [(["within", "higher"], True), (["within", "lower"], False)])
def test_if_the_headline_is_a_loss_every_probe_must_be_within(verdicts, is_near):
    study = make_study([DENSE, NARROW], by_loss=True)
    study = replace(study, curves=study.curves.assign(transformers_speedup=[1.0, 1.2]))
    of_loss = study.comparisons
    probes = [of_loss.assign(metric=f"probe_{name}", verdict=name) for name in verdicts]
    (sentence,) = speed_sentences(verdict_rows(study), pd.concat([of_loss, *probes]), WISH)
    assert ("the fastest of 1 pruned models within 0.02 of dense is structured 20 (15.0) %" in sentence) == is_near


CONFIGURED = {"m": "path:m", "part": "pruned:m/sparsity10_layers_random"}


def test_a_model_that_is_made_from_a_pruned_base_is_judged_beside_the_original(write_run, runs_dir, tmp_path):
    """The part is a model without some layers, from which channels are removed too."""

    def change(files):
        check_engines(files)
        files["engines"]["results"][-1]["tokens_per_second"] = 61.0  # 1.525 times those of dense, after 1.5
        files["validation_report"]["mask"]["head_share"] = 0.0

    for model, method, value in (("m", "dense", 0.9), ("part", "dense", 0.5), ("part", "structured", 0.5)):
        run = Run(model, "t", method, 0 if method == "dense" else 50, MODE, seed=0)
        write_run(run.id, value, change=change)
    models = {name: {"source": source, "sha256": None, "dtype": "float32"} for name, source in CONFIGURED.items()}
    grid = {"models": [*CONFIGURED], "tasks": ["t"], "methods": ["structured"], "sparsities": [0, 50], "modes": [MODE]}
    config = laid_over({"models": models, "tasks": {"t": {"kind": "text", "local": "t"}}, "grid": grid})
    # The model is within this tolerance of its own dense one, but not of the original.
    wish = Analysis(wished_speedup=1.3, tolerance=0.3)
    results = compute(read_study(runs_dir, config), wish, config)
    pairs = results.comparisons.set_index("question").query("method == 'structured' and measure == 'value'")
    assert pairs.loc["dense", "difference"] == 0
    assert pairs.loc["original", "difference"] == pytest.approx(-0.4)
    rows = verdict_rows(results)
    (sentence,) = speed_sentences(rows[rows["original"] == "m"], results.comparisons, wish)
    assert "the best with x 1.3 or faster is part, structured 50 % (no_finetune), x 1.51" in sentence
    assert "none of 1 pruned models is shown to be faster and within 0.3 of dense" in sentence
    # The pages say it once, of the original.
    (tmp_path / "pages").mkdir()
    write_pages(tmp_path / "pages", tmp_path, results, [], {"again": ["make again"], "check": ["check"]})
    for name in (FINDINGS, "EXPERIMENTS.md"):
        text = " ".join((tmp_path / "pages" / name).read_text().split())
        assert text.count(sentence) == 1
        assert text.index("m, t:") < text.index(sentence) < text.index("part, t:")


def test_without_a_configuration_no_speed_can_be_wished_for(write_run, runs_dir):
    write_run(f"m-t-dense-sparsity00-{MODE}-seed0")
    with pytest.raises(InputError, match="--wished_speedup needs the configuration"):
        compute(read_study(runs_dir), WISH)


def test_the_speed_of_a_cell_of_several_seeds_is_a_mean_with_students_interval_over_them(write_run, runs_dir):
    def check(files: dict, factor: float) -> None:
        check_engines(files)
        for result in files["engines"]["results"]:
            result["tokens_per_second"] *= factor if result["model"] == "run" else 1

    # Each run is 2 x its factor as fast as dense: 2 and 4.
    for seed, factor in ((0, 1.0), (1, 2.0)):
        write_run(f"m-t-random-sparsity50-sparse_to_sparse-seed{seed}", change=partial(check, factor=factor))
    cell = compute(read_study(runs_dir), Analysis()).cells.iloc[0]
    assert cell["vllm_speedup"] == 3
    # t(0.975, 1) is 12.706, and the standard error of the mean of 2 and 4 is 1.
    assert (cell["vllm_speedup_low"], cell["vllm_speedup_high"]) == pytest.approx((3 - 12.706, 3 + 12.706), abs=1e-3)
