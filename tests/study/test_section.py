"""The flags that the rules give to the scripts."""

import shlex

import pytest
from sparseft.errors import InputError
from sparseft.study.mask_settings import whole_percent
from sparseft.study.section import flags


def test_a_flag_without_a_value_is_left_out_and_0_and_false_are_values():
    assert flags(a=None, b=[], c=0, d=False, e=[1, 2]) == "--c 0 --d=False --e 1 2"


def test_a_shell_reads_every_value_as_it_was():
    assert shlex.split(flags(name="a b", other=["$HOME", "'"])) == ["--name", "a b", "--other", "$HOME", "'"]


@pytest.mark.parametrize(
    ("text", "percent"), [("0.29", 29), ("0", 0), ("1/2", 50), ("1", None), ("0.005", None), ("x", None)]
)
def test_a_sparsity_is_a_whole_percent_exactly(text, percent):
    if percent is None:
        with pytest.raises(InputError, match=f"--sparsity {text}"):
            whole_percent(text)
    else:
        assert whole_percent(text) == percent
