"""`snakemake --report`: a results page with every table, page and figure, each with its caption."""

from sparseft import grid


def test_the_report_holds_the_description_and_every_table_page_and_figure(small_study):
    small_study.snakemake("--report", "report.html")
    text = (small_study.folder / "report.html").read_text()
    assert "A sparse fine-tuning study: models are pruned" in text
    figures = sorted((small_study.folder / grid.ANALYSIS / "plots").glob("*.png"))
    assert len(figures) == 8
    names = [*(f"{table}.csv" for table in grid.TABLES), "EXPERIMENTS.md", "correctness_memo.md"]
    for name in [*names, *(path.name for path in figures)]:
        assert f'"name": "{name}"' in text, name
    for caption in ("Comma-separated; an empty field", "Written from the run folders alone", "Points are means over"):
        assert caption in text
    for category in ("Tables", "Pages", "Figures"):
        assert f'"{category}"' in text
