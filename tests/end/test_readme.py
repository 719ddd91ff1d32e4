"""The code, the commands and the names in the README work."""

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


def test_names_in_the_commands_and_tables_are_known() -> None:
    from hardsight.specs.catalog import complete, find
    from hardsight.specs.syntax import read

    text = README.read_text()
    for kind, option in (("Attack", "attack"), ("Task", "task"), ("Threat", "threat"), ("Encoder", "encoder")):
        for quoted, bare in re.findall(rf"--{option} (?:'([^']*)'|([a-z][^\s'`]*))", text):
            if (quoted or bare) != "task":
                complete(quoted or bare, kind)
    for row, kind in (
        ("attacks", "Attack"),
        ("tasks", "Task"),
        ("data", "Data"),
        ("threats", "Threat"),
        ("encoders", "Encoder"),
    ):
        line = re.search(rf"^\| {row} \| (.*) \|$", text, re.MULTILINE)
        assert line, row
        names = [name for name in re.findall(r"`([^`]*)`", line[1]) if name != "task"]
        assert len(names) > 2
        for name in names:
            if not name.startswith("--"):
                find(read(name.replace("...", "None")).name, kind)
