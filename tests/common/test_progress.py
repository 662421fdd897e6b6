"""A long loop says how far it is."""

import re

from sparseft.common import progress


def test_a_log_has_a_line_for_each_slow_item_and_none_for_a_short_loop(capsys, monkeypatch):
    assert list(progress.show("abc", "decoder layer", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PAUSE", 0)
    assert list(progress.show("abc", "decoder layer", 3)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"decoder layer {number} of 3" for number in (1, 2, 3)]
    assert re.fullmatch(r"decoder layer 3 of 3, \d+ s", lines[-1])
