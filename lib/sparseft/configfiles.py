"""Configuration files as Snakemake reads them."""

from pathlib import Path

import yaml
from snakemake.utils import update_config

from sparseft.config import Config, parse_section
from sparseft.errors import InputError
from sparseft.files import JSON_LIMIT, read_text

DEFAULT = Path(__file__).parents[2] / "config/config.yaml"


def read_configuration(files: list[Path]) -> Config:
    """Return the study of the default configuration with `files` laid over it."""
    content: dict = {}
    for file in (DEFAULT, *files):
        try:
            section = yaml.safe_load(read_text(file, JSON_LIMIT, "correct the path"))
        except (yaml.YAMLError, RecursionError) as error:
            raise InputError(f"{file}: not YAML ({error})", "correct it") from None
        if not isinstance(section, dict):
            raise InputError(f"{file}: holds no sections", "write a study as config/config.yaml is written")
        update_config(content, section)
    return parse_section(Config, content, "configuration")
