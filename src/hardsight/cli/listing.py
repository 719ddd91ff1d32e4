"""The rows that `hardsight list` prints; no torch."""

from __future__ import annotations

from collections.abc import Iterator

from hardsight.cli.claims import rows as claims
from hardsight.encoders.zoo import known
from hardsight.measure import protocol as protocols
from hardsight.specs import catalog
from hardsight.specs.quirks import QUIRKS
from hardsight.specs.recipe import SHIPPED
from hardsight.specs.study_file import shipped as studies
from hardsight.specs.study_file import summary

GROUPS = {
    "encoders": ("Encoder",),
    "attacks": ("Attack", "Search"),
    "losses": ("Loss",),
    "threats": ("Threat",),
    "tasks": ("Task",),
    "data": ("Data",),
    "methods": ("Method",),
    "negatives": ("Negatives",),
    "views": ("Views",),
    "optimizers": ("Optimizer",),
    "schedules": ("Schedule",),
    "watchings": ("Watching",),
    "probes": ("Probe",),
    "aims": ("Aim",),
    "checks": ("Check",),
    "defences": ("Defence",),
    "corruptions": ("Corruption",),
    "preprocessing": ("Preprocess",),
    "engines": ("Engine",),
}
"""The arguments of `hardsight list`, and the kinds that each one shows."""


def rows_of(what: str) -> Iterator[tuple[str, str, str]]:
    """(name, kind, description) of every entry of a group, of the included recipes and studies, or of paper 002's quirks."""
    if what == "recipes":
        for path in sorted(SHIPPED.glob("*.toml")):
            yield path.stem, "recipe", path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        return
    if what == "quirks":
        for quirk in QUIRKS:
            yield quirk.name, "quirk", quirk.said
        return
    if what == "claims":
        yield from claims()
        return
    if what == "studies":
        for name, path in studies().items():
            yield name, "study", summary(path.read_text(encoding="utf-8"))
        return
    if what == "protocols":
        for name in protocols.names():
            one = protocols.load(name)
            yield name, f"version {one.version}", f"{one.title}: {one.measures}"
        return
    if what == "encoders":
        for card in known():
            yield f"zoo:{card['name']}", "encoder", card["what"]
    kinds = GROUPS[what]
    fitting = [entry for entry in catalog.entries().values() if entry.kind in kinds]
    for entry in sorted(fitting, key=lambda entry: (kinds.index(entry.kind), entry.name)):
        yield entry.name, entry.kind.lower(), entry.summary
