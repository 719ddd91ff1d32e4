"""The reference, from the source: a page a group of parts (catalog), one of Python names (griffe), one of commands (typer).

Nothing is imported that needs torch. A public name without a docstring stops the build.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import griffe
import typer
import typer.cli

import hardsight
from hardsight.cli import app
from hardsight.cli.listing import GROUPS, rows_of
from hardsight.specs import catalog

SOURCE = Path(hardsight.__file__).parents[1]


def write(folder: Path) -> None:
    """Writes every page of the reference into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, kinds in GROUPS.items():
        (folder / f"{group}.md").write_text(parts(group, kinds), encoding="utf-8")
    (folder / "included.md").write_text(included(), encoding="utf-8")
    (folder / "python.md").write_text(python(), encoding="utf-8")
    (folder / "commands.md").write_text(commands(), encoding="utf-8")


def entries() -> str:
    """The navigation's lines for the groups of parts, as TOML."""
    return "".join(f'    {{ "{group.capitalize()}" = "reference/{group}.md" }},\n' for group in GROUPS)


def parts(group: str, kinds: tuple[str, ...]) -> str:
    """Every entry of some kinds: its signature, and its docstring."""
    lines = [
        f"# {group.capitalize()} {{ #all-{group} }}",
        "",
        f"What `hardsight list {group}` lists, and `hardsight show NAME` shows.",
        "",
    ]
    found = sorted(
        catalog.entries().values(), key=lambda one: (kinds.index(one.kind) if one.kind in kinds else -1, one.name)
    )
    for one in (one for one in found if one.kind in kinds):
        lines += [f"## {one.name}", "", *signature(one.signature), "", *said(one.doc, one.name)]
    return "\n".join(lines) + "\n"


def included() -> str:
    """What is measured or trained by a name: recipes, protocols, studies, and the quirks of paper 002's evaluation."""
    lines = ["# Recipes, protocols, studies", "", "`hardsight show NAME` says more about each.", ""]
    for what in ("recipes", "protocols", "studies", "quirks"):
        lines += [f"## {what.capitalize()}", "", "| name | what |", "|:--|:--|"]
        lines += [
            f"| `{name}` | {escape(' '.join(text.split())).replace('|', '&#124;')} |" for name, _, text in rows_of(what)
        ]
        lines.append("")
    return "\n".join(lines)


def python() -> str:
    """The names of `import hardsight as hs`; those of the catalog by a line that leads to their group."""
    package = griffe.load("hardsight", search_paths=[str(SOURCE)])
    group_of = {kind: group for group, kinds in GROUPS.items() for kind in kinds}
    registered, lines = catalog.entries(), []
    for name, module in sorted(hardsight._HOMES.items(), key=lambda one: (one[0].islower(), one[0].lower())):
        if name in registered:
            group = group_of[registered[name].kind]
            lines += [f"## {name}", "", f"{registered[name].summary} [{group.capitalize()}]({group}.md#{name})", ""]
            continue
        one = package[f"{module}.{name}"]
        lines += [f"## {name}", "", f"`from hardsight.{module} import {name}`", ""]
        if isinstance(one, griffe.Function):
            lines += signature(one.signature())
        lines += ["", *said(one.docstring.value if one.docstring else "", name)]
        for member in one.members.values() if isinstance(one, griffe.Class) else ():
            if isinstance(member, griffe.Function) and member.docstring and not member.name.startswith("_"):
                text = member.signature() if "property" not in member.labels else f"{member.name} -> {member.returns}"
                lines += [f"### {name}.{member.name}", "", *signature(str(text)), "", *said(member.docstring.value, name)]
    return (
        "\n".join(["# Python", "", "`import hardsight as hs`; each name is loaded when it is first used.", "", *lines])
        + "\n"
    )


def commands() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="hardsight")  # type: ignore[arg-type]
    text = typer.cli.get_docs_for_click(obj=command, ctx=context, name="hardsight")
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        short = one.get_short_help_str()
        text = text.replace(f"* `{name}`: {short}\n", f"* `{name}`: {one.get_short_help_str(limit=300)}\n")
    text = re.sub(r"\[/?bold\]|\[/\]", "", text).replace("# `hardsight`", "# Commands", 1)
    return re.sub(r"^(#+ )`(.*)`$", r"\1\2", text, flags=re.MULTILINE)


def signature(text: str) -> list[str]:
    """A block of code; what is longer than a line has one argument a line."""
    if len(text) > 100:
        text = re.sub(r", (?=\w+: )", ",\n    ", text)
        text = re.sub(r"^(\w+)\((?=\w)", r"\1(\n    ", text)
    return ["```python", text, "```"]


def said(doc: str, name: str) -> list[str]:
    """A docstring as paragraphs; an indented one is a block of code."""
    if not doc.strip():
        raise SystemExit(f"{name} has no docstring, and the reference needs one")
    first, _, rest = doc.partition("\n")
    lines = []
    for paragraph in re.split(r"\n\s*\n", f"{first}\n{_dedented(rest)}".strip()):
        if paragraph.startswith("    "):
            lines += ["```text", *(line.removeprefix("    ") for line in paragraph.splitlines()), "```", ""]
        else:
            text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(paragraph, quote=False))
            lines += ["<p>" + " ".join(text.split()) + "</p>", ""]
    return lines


def _dedented(text: str) -> str:
    """Without the indent of its least indented line."""
    least = min((len(line) - len(line.lstrip()) for line in text.splitlines() if line.strip()), default=0)
    return "\n".join(line[least:] for line in text.splitlines())
