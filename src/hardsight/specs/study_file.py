"""Reads a study (`study`) from its TOML file, or by its name from those in `measure/studies/`; all checked, without torch."""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from hardsight.core.errors import SpecError, nearest
from hardsight.specs import recipe as recipes
from hardsight.specs.catalog import complete
from hardsight.specs.study import (
    SIGNS,
    Arm,
    Comparison,
    Correlation,
    Dose,
    Finding,
    Geometry,
    Measure,
    Study,
    folder_name,
    wrapped,
)  # fmt: skip

SHIPPED = Path(__file__).parents[1] / "measure" / "studies"
DERIVED = ("relative", "area", "minimal")
LEAST_RADII = 3
"""Radii that an area under the accuracy-eps curve needs."""
KEYS = [
    "title",
    "paper",
    "seeds",
    "derive",
    "measure",
    "measures",
    "geometry",
    "arms",
    "compare",
    "dose",
    "correlate",
    "finding",
]


def shipped() -> dict[str, Path]:
    """Name -> file of the studies in the package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def summary(text: str) -> str:
    """The first sentence of the comment at the top of a study's file."""
    lines = itertools.takewhile(lambda line: line.startswith("#") and not line.startswith("# Command"), text.splitlines())
    whole = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=[.?!]) ", whole, maxsplit=1)[0].rstrip(".")


def load(name: str) -> Study:
    """The study in a TOML file, or the shipped one of that name."""
    if name.endswith(".toml"):
        return read_study(Path(name))
    known = shipped()
    if name not in known:
        raise SpecError(
            f"there is no study '{name}'{nearest(name, known) or '; shipped: ' + ', '.join(known)} (or give a .toml file)"
        )
    return read_study(known[name])


def read_study(path: Path) -> Study:
    """The study of a TOML file; `SpecError` if it is not valid. `measure/study.check` also checks its training recipes."""
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from None
    _known(content, KEYS, str(path))
    arms = _arms(content, path)
    names = [arm.name for arm in arms]
    measures = _measures(content, names, path)
    seeds = content.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise SpecError(f"{path}: seeds is {seeds!r}; it is the number of seeds, at least 1")
    for key in ("title", "paper"):
        if not isinstance(content.get(key, ""), str):
            raise SpecError(f"{path}: {key} is {content[key]!r}; it must be a string")
    command = re.search(r"^# Command: (.*)$", text, re.MULTILINE)
    study = Study(
        name=path.stem,
        title=content.get("title", path.stem),
        seeds=seeds,
        measures=measures,
        arms=arms,
        compare=tuple(_rows(content, "compare", Comparison, ("of", "to"), path)),
        dose=tuple(_rows(content, "dose", Dose, ("figure", "arms", "at"), path)),
        correlate=tuple(_rows(content, "correlate", Correlation, ("x", "y"), path)),
        finding=tuple(_rows(content, "finding", Finding, ("says", "source", "expect"), path)),
        derive=_texts(content.get("derive", ()), f"{path}: derive"),
        geometry=_geometry(content, path),
        paper=content.get("paper", ""),
        what=summary(text),
        command=command[1].strip() if command else "",
    )
    _check(study, names, path)
    return study


def _arms(content: dict[str, Any], path: Path) -> tuple[Arm, ...]:
    if not isinstance(content.get("arms"), dict) or not content["arms"]:
        raise SpecError(f"{path}: a study needs a table [arms]")
    found: list[Arm] = []
    for name, given in content["arms"].items():
        where = f"{path}, arm '{name}'"
        arm = Arm(name, **_fields(given, Arm, (), where))
        if bool(arm.recipe) == bool(arm.encoder):
            raise SpecError(f"{where}: an arm needs either a recipe to train with or an existing encoder, not both")
        if arm.encoder:
            complete(arm.encoder, "Encoder")
            if arm.set or arm.after:
                raise SpecError(f"{where}: an arm with an existing encoder takes no '{'set' if arm.set else 'after'}'")
        if arm.after and arm.after not in [one.name for one in found]:
            raise SpecError(f"{where}: after = '{arm.after}' is not an arm defined above it")
        if any(one.replace(" ", "").startswith("seed=") for one in (*arm.set, *arm.measure)):
            raise SpecError(f"{where}: the study sets the seed of each run; give their number as 'seeds'")
        for one in found:
            if folder_name(one.name) == folder_name(name):
                raise SpecError(f"{where}: it would have the same folder as '{one.name}'; give it another name")
        found.append(arm)
    return tuple(found)


def _measures(content: dict[str, Any], arms: list[str], path: Path) -> tuple[Measure, ...]:
    single, several = content.get("measure"), content.get("measures")
    if (single is None) == (several is None):
        raise SpecError(f"{path}: a study needs a table [measure], or several [measures.NAME]")
    given: Any = {"": single} if several is None else several
    if not isinstance(given, dict) or not given or not all(isinstance(one, dict) and one for one in given.values()):
        raise SpecError(f"{path}: [measure] and each [measures.NAME] must be a table of keys and values")
    found = []
    for name, table in given.items():
        where = f"{path}, [measures.{name}]" if name else f"{path}, [measure]"
        for key in ("encoders", "seed"):
            if key in table:
                raise SpecError(f"{where}: '{key}' is not allowed here, since the arms and 'seeds' set it")
        only = _texts(table.get("arms", ()), f"{where}: arms")
        _known(only, arms, where, "arm")
        wrap = table.get("wrap", "")
        if not isinstance(wrap, str):
            raise SpecError(f"{where}: wrap is {wrap!r}; it must be a call such as 'crops(n=16)'")
        rest = {key: value for key, value in table.items() if key not in ("arms", "wrap")}
        recipe = recipes.from_dict({**rest, "encoders": [wrapped(wrap, "tiny", 0)]}, where, path.stem).check()
        found.append(Measure(name, recipe, only, wrap))
    return tuple(found)


def _geometry(content: dict[str, Any], path: Path) -> Geometry | None:
    if "geometry" not in content:
        return None
    found = Geometry(**_fields(content["geometry"], Geometry, ("data",), f"{path}, [geometry]"))
    for text, kind in ((found.data, "Data"), (found.threat, "Threat"), (found.views, "Views"), (found.probe, "Probe")):
        complete(text, kind)
    return found


def _rows(content: dict[str, Any], key: str, kind: type, needed: tuple[str, ...], path: Path) -> list[Any]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise SpecError(f"{path}: {key} is a list of tables, written [[{key}]]")
    return [kind(**_fields(one, kind, needed, f"{path}, [[{key}]] {place}")) for place, one in enumerate(rows, 1)]


def _check(study: Study, arms: list[str], path: Path) -> None:
    """`SpecError` where a part names an arm or asks for a number that the study does not have."""
    for one in study.compare:
        _known(tuple(filter(None, (one.of, one.to, one.gap))), arms, f"{path}, a comparison", "arm")
    for one in study.dose:
        where = f"{path}, the dose of '{one.figure}'"
        _known(one.arms, arms, where, "arm")
        if len(one.arms) != len(one.at) or len(set(one.at)) < 3:
            raise SpecError(f"{where}: it needs one number in 'at' for each arm, and at least three different ones")
    _known(study.derive, list(DERIVED), f"{path}: derive")
    if "area" in study.derive and all(len(one.recipe.threats()) < LEAST_RADII for one in study.measures):
        raise SpecError(f"{path}: derive = 'area' needs at least {LEAST_RADII} radii in a measuring recipe's eps")
    for one in study.finding:
        where = f"{path}, the finding '{one.says}'"
        _known((one.expect,), list(SIGNS), f"{where}: expect")
        _known((*one.of, *one.to), arms, where, "arm")
        kinds = {
            "figure, of, to": bool(one.figure and one.of and one.to),
            "correlate": bool(one.correlate),
            "dose": bool(one.dose),
        }
        if sum(kinds.values()) != 1 or (one.less and not one.figure):
            raise SpecError(f"{where}: it needs exactly one of: {'; '.join(kinds)}")
        if one.correlate and len(one.correlate) != 2:
            raise SpecError(f"{where}: correlate takes two figures")
        if one.dose and one.dose not in [each.figure for each in study.dose]:
            raise SpecError(
                f"{where}: there is no [[dose]] of '{one.dose}'{nearest(one.dose, [d.figure for d in study.dose])}"
            )


def _fields(given: Any, kind: type, needed: tuple[str, ...], where: str) -> dict[str, Any]:
    """The values of a table as fields of that dataclass; `SpecError` for an unknown key or a value of another type."""
    if not isinstance(given, dict):
        raise SpecError(f"{where}: {given!r} is not a table of keys and values")
    known = {one.name: str(one.type) for one in fields(kind) if not (one.name == "name" and kind is Arm)}
    _known(given, list(known), where)
    for key in needed:
        if key not in given:
            raise SpecError(f"{where}: it needs '{key}'")
    found: dict[str, Any] = {}
    for key, value in given.items():
        if known[key] == "tuple[str, ...]":
            single = kind is Finding and isinstance(value, str)
            found[key] = (value,) if single else _texts(value, f"{where}: {key}")
        elif known[key] == "tuple[float, ...]":
            if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
                raise SpecError(f"{where}: {key} is {value!r}; it must be a list of numbers")
            found[key] = tuple(map(float, value))
        elif known[key] == "int":
            if type(value) is not int:
                raise SpecError(f"{where}: {key} is {value!r}; it must be a whole number")
            found[key] = value
        elif not isinstance(value, str):
            raise SpecError(f"{where}: {key} is {value!r}; it must be a string")
        else:
            found[key] = value
    return found


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise SpecError(f"{where} is {value!r}; it must be a list of strings")
    return tuple(value)


def _known(names: Any, known: list[str], where: str, what: str = "") -> None:
    for name in names:
        if name not in known:
            said = f"there is no {what} '{name}'" if what else f"unknown key '{name}'"
            raise SpecError(f"{where}: {said}{nearest(name, known) or '; known: ' + ', '.join(known)}")
