"""Two kills of a small study, and it comes to the results of an undisturbed one; `make chaos` does thirty."""

import argparse

from chaos import storm


def test_a_killed_study_comes_to_the_results_of_an_undisturbed_one(tmp_path):
    kills = storm(tmp_path, argparse.Namespace(kills=2, seed=3, steps=10, longest=20))
    assert len(kills) == 2
