"""The flags that the rules give to the scripts."""

import shlex

from sparseft.study.flags import flags


def test_a_flag_without_a_value_is_left_out_and_0_and_false_are_values():
    assert flags(a=None, b=[], c=0, d=False, e=[1, 2]) == "--c 0 --d False --e 1 2"


def test_a_shell_reads_every_value_as_it_was():
    assert shlex.split(flags(name="a b", other=["$HOME", "'"])) == ["--name", "a b", "--other", "$HOME", "'"]
