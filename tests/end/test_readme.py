"""What the README says can be done as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_python_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code
    exec(compile(code[1], str(README), "exec"), {})
    assert re.match(r"robust accuracy [01]\.\d\d on 16 images", capsys.readouterr().out)


def test_names_in_the_tables_are_known() -> None:
    from hardsight.catalog import complete

    text = README.read_text()
    for spec in re.findall(r"--attack '?([a-z]\w*(?:\([^']*\))?)'?", text):
        complete(spec, "Attack")
    for spec in re.findall(r"--(?:task) '?([a-z]\w*(?:\([^']*\))?)'?", text):
        complete(spec, "Task")
    for name in (
        "made",
        "cifar10",
        "folder",
        "camvid",
        "rgbd",
        "classpgd",
        "segpgd",
        "cospgd",
        "depthpgd",
        "fgsm",
        "embed",
        "clean",
    ):
        assert f"`{name}" in text
