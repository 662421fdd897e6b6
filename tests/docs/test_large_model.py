"""Compare the table of docs/training.md, section "A model larger than one GPU: the estimate", with the estimate."""

import re

import pytest
import yaml
from pages import ROOT, configurations
from sparseft.planning.memory import training_memory
from sparseft.planning.model_sizes import described
from sparseft.study.configfiles import read_configuration

PAGE = ROOT / "docs/training.md"
GPUS = (4, 8)


def rows() -> dict[str, list[float]]:
    """Return the rows of the table by their first cell: GB with 4 and with 8 GPUs."""
    section = PAGE.read_text().partition("## A model larger than one GPU: the estimate")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|", section, re.MULTILINE)
    return {label: [float(four), float(eight)] for label, four, eight in cells}


@pytest.mark.parametrize("gpus", GPUS)
def test_the_table_of_a_large_model_is_what_the_estimate_computes(tmp_path, gpus):
    content = configurations(PAGE)["large.yaml"]
    content["resources"] |= {"processes": gpus, "gpus": gpus}
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(content))
    config = read_configuration([tmp_path / "large.yaml"])
    need = training_memory(config, described("llama70b", config.models["llama70b"]), "boolq")
    on_gpu = [*need.model.values(), sum(need.model.values())]
    expected = [*on_gpu, gpus * sum(need.machine.values())]
    column = GPUS.index(gpus)
    assert [values[column] for values in rows().values()] == pytest.approx([size / 1e9 for size in expected], abs=0.051)
