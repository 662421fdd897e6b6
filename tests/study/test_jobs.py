"""Check what makes a job run again."""

from types import SimpleNamespace

from project import laid_over
from sparseft.study.jobs import Jobs


def test_a_probe_s_version_is_one_of_the_evaluation_s_and_of_no_training_s():
    config = laid_over({"evaluation": {"probes": ["arc_easy", "gsm8k_mini"]}})
    jobs, wildcards = Jobs(config, None, None), SimpleNamespace(task="boolq_mini", method="unstructured_wanda")
    own = ["7", "unstructured=1", "wanda=1", "boolq_mini=1"]
    assert jobs.versions(7, wildcards).split() == own
    assert jobs.versions(7, wildcards, has_probes=True).split() == [*own, "lm_eval=1", "gsm8k_mini=1"]
