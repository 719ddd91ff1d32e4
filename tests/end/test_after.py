"""After each command the next one: it can be typed as it stands, is on stderr, and is left out under --json and --quiet."""

from __future__ import annotations

import ast
import json
import shlex
import string
from pathlib import Path

import pytest
import typer

from hardsight import cli
from hardsight.cli import after, app
from tests.end.test_bench import FAST, inside

FACTS = {
    "command": ("hardsight", "bench", "--encoder", "tiny", "--data", "folder:my photos"),
    "store": "runs/a store",
    "stores": ("runs/one", "runs/two"),
    "encoder": "timm:vit_tiny_patch16_224(pretrained=False, size=64)",
    "data": "cifar10:my data",
    "task": "classify(head=own)",
    "name": "pgd(steps=3)",
    "run": "runs/a run",
    "a": "one; two",
    "b": "$HOME",
    "out": "a folder",
}


def next_of(text: str) -> list[str]:
    """The words of the command in the last line."""
    line = text.splitlines()[-1]
    assert line.startswith(" next  hardsight "), text
    return shlex.split(line.removeprefix(" next  ").rpartition("    (")[0])


def parsed(words: list[str]) -> dict[str, object]:
    """What the command line reads from these words, without running them; an unknown option or verb fails."""
    group = typer.main.get_command(app)
    with group.make_context("hardsight", words[1:]) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
        if name == "data":
            name, command, rest = command.resolve_command(context, rest)
        with command.make_context(name, rest, parent=context) as found:
            return found.params


@pytest.mark.parametrize("done", after.NEXT)
def test_the_next_command_can_be_typed(done: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, _ = after.NEXT[done]
    names = [name for _, name, _, _ in string.Formatter().parse(command) if name]
    after.say(done, **{name: FACTS[name] for name in names})
    given = capsys.readouterr()
    assert given.out == ""
    values = [
        one
        for value in parsed(next_of(given.err)).values()
        for one in (value if isinstance(value, list | tuple) else [value])
    ]
    for name in names if command != "{command}" else ():
        facts = FACTS[name] if isinstance(FACTS[name], tuple) else (FACTS[name],)
        assert all(any(str(value).endswith(fact) for value in values) for fact in facts), "arrives as one word"
    after.say(done, silent=True)
    assert capsys.readouterr() == ("", "")


def test_every_verb_says_one() -> None:
    """Each function that is a command calls `after.say`, but `probe`, which is a `bench`."""
    silent = []
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            verb = isinstance(node, ast.FunctionDef) and any(
                ast.unparse(one).endswith(".command()") or ".command(name" in ast.unparse(one) for one in node.decorator_list
            )
            calls = {ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
            if verb and not calls & {"after.say", "_train", "bench"}:
                silent.append(node.name)  # type: ignore[union-attr]
    assert silent == []


def test_one_leads_to_the_next() -> None:
    found = inside("list", "attacks")
    shown = inside(*next_of(found.stderr)[1:])
    assert shown.returncode == 0 and shown.stdout
    assert parsed(next_of(inside("show", "segpgd").stderr))["attack"] == ["segpgd"]
    assert parsed(next_of(inside("show", "made-simclr").stderr))["recipe"] == "made-simclr"
    assert parsed(next_of(inside("show", "made").stderr))["spec"] == "made"
    assert "next" not in inside("show", "far_l2").stderr, "a loss alone is no argument of a command"


def test_a_whole_run(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    words = [
        "bench",
        *FAST,
        "--encoder",
        "tiny",
        "--task",
        "classify",
        "--attack",
        "embed(steps=1)",
        "--count",
        "4",
        "--store",
        store,
    ]
    dry = inside(*words, "--dry-run")
    assert next_of(dry.stderr) == ["hardsight", *words]
    assert parsed(next_of(inside(*words).stderr))["encoder"] == ["tiny"]
    assert next_of(inside("report", store).stderr) == ["hardsight", "board", store]
    for more in ("--json", "--quiet"):
        again = inside(*words, more)
        assert again.returncode == 0 and "next" not in again.stderr, more
        assert more == "--quiet" or json.loads(again.stdout)
