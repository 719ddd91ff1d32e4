"""How to cite: `--cite`, CITATION.cff, the page and the package say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from typer.testing import CliRunner

from hardsight import __version__
from hardsight.cli import app

ROOT = Path(__file__).parents[2]
FIELDS = {"cff-version", "message", "type", "title", "version", "license", "authors", "repository-code", "keywords"}
"""Those of the schema of CFF 1.2.0 that the file uses; the schema allows no others than its own."""


def test_the_file_the_command_the_page_and_the_package_agree() -> None:
    printed = CliRunner().invoke(app, ["--cite"])
    assert printed.exit_code == 0
    cite = {name: value.strip("{}") for name, value in re.findall(r"^  ([a-z]+) = \{(.*)\},$", printed.output, re.MULTILINE)}
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cite["version"] == file["version"] == __version__ == package["version"]
    assert cite["title"] == file["title"]
    assert cite["url"] == file["repository-code"]
    assert cite["license"] == file["license"] == package["license"]
    assert [{"name": cite["author"]}] == file["authors"] == package["authors"]
    assert f"```bibtex\n{printed.output}```" in (ROOT / "docs" / "cite.md").read_text(encoding="utf-8")


def test_the_file_has_the_form_of_cff_1_2_0() -> None:
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert set(file) == FIELDS
    assert file["cff-version"] == "1.2.0" and file["type"] == "software"
    for name in FIELDS - {"authors", "keywords"}:
        assert isinstance(file[name], str) and file[name], name
    assert re.fullmatch(r"https?://\S+", file["repository-code"])
    assert len(set(file["keywords"])) == len(file["keywords"]) > 0
