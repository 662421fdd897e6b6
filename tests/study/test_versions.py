"""Check what makes a job run again."""

from project import laid_over
from sparseft.study.versions import versions


def test_a_probe_s_version_is_one_of_the_evaluation_s_and_of_no_training_s():
    config = laid_over({"evaluation": {"probes": ["arc_easy", "gsm8k_mini"]}})
    wildcards = {"model": "smollm2", "task": "boolq_mini", "method": "unstructured_wanda"}
    own = ["7", "llama=1", "unstructured=1", "wanda=1", "boolq_mini=1"]
    assert versions(config, 7, wildcards, ["llama"]).split() == own
    assert versions(config, 7, wildcards, ["llama"], has_probes=True).split() == [*own, "lm_eval=1", "gsm8k_mini=1"]
