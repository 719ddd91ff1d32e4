"""Reported beside measured: shown where the protocol holds, and nowhere else; every reason is said; the same in all formats."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from hardsight import report
from hardsight.cli.base import print_table
from hardsight.report import page, protocol, table
from hardsight.report.claims import found
from hardsight.report.results import grid
from hardsight.store.cells import Store
from tests.report.test_report import HOSTILE, N, add

DINO = {"encoder": "zoo('dino_vitb16')", "data": "cifar10('somewhere')", "data_name": "CIFAR-10"}
CARD = {"name": "dino_vitb16", "arch": "vit", "size": [224, 224], "sha256": "ab" * 32}
HERE = {"name": "paper002-classification", "version": "2", "title": "Classification", "source": "arXiv 2407.12588"}
UNDER = {
    "clean": {"attack": "clean"},
    "embed": {"attack": "embed(steps=20)", "norm": "Linf"},
    "task": {"attack": "classpgd()", "norm": "Linf"},
}


def under(store: Store, column: str, right: int, departures=(), eps: int = 8, **changes) -> None:
    """A cell of DINO ViT-B/16 on CIFAR-10 under paper 002's protocol, with `right` of its N images right."""
    error = np.ones(N)
    error[:right] = 0
    what = {**DINO, **UNDER[column], "encoder_card": CARD, "protocol": {**HERE, "departures": list(departures)}, **changes}
    add(store, "dino", "classify", column, 0 if column == "clean" else eps, error, **what)


def only(store: Store) -> dict:
    (line,) = protocol.lines(table.grid(store.cells()))
    return line


def test_a_reported_value_within_the_interval_agrees(tmp_path):
    store = Store(tmp_path)
    under(store, "clean", 11)  # Wilson's interval of 11 of 12 is [0.646, 0.985], reported is .94
    line = only(store)
    assert (line["verdict"], line["claim"]) == ("agrees", "paper002/cifar10/dino_vitb16/clean")
    assert (line["reported"], line["measured"], line["interval"]) == ("94", "91.7", "64.6–98.5")
    assert line["difference_value"] == pytest.approx(11 / 12 - 0.94)


def test_a_reported_value_outside_disagrees_by_the_difference(tmp_path):
    store = Store(tmp_path)
    under(store, "task", 6)  # reported .00
    line = only(store)
    assert line["verdict"] == "disagrees"
    assert line["mark"] == "disagrees (by 50.0 points, measured is higher)"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.0, 0.0051, "agrees"), (0.0, 0.0049, "disagrees"), (0.0149, 0.2, "agrees"), (0.0151, 0.2, "disagrees")],
)
def test_the_interval_is_widened_by_half_a_digit_of_the_reported_value(low, high, verdict):
    (claim,) = found("paper002/cifar10/dino_vitb16/embed")  # .01, published with two digits: from .005 to .015
    assert protocol._verdict(claim, [], (low + high) / 2, low, high, "%")["verdict"] == verdict


@pytest.mark.parametrize("held", [True, False])
def test_with_departures_there_is_every_reason_and_no_reported_value(tmp_path, held):
    store = Store(tmp_path)
    reasons = [] if held else ["count is 12, the protocol has 1000", "attack.steps is 2, the protocol has 20"]
    under(store, "clean", 11, reasons)
    paths = report.write(store, tmp_path / "out")
    texts = {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}
    assert only(store)["verdict"] == ("agrees" if held else "not comparable")
    for kind in ("html", "md", "tex", "json"):
        flat = texts[kind].replace("\\_", "_")
        for reason in ("count is 12, the protocol has 1000", "attack.steps is 2, the protocol has 20"):
            assert (reason in flat) != held, kind
    assert ("Not comparable with paper 002" in texts["html"]) != held
    entry = json.loads(texts["json"])["results"]["dino/classify/CIFAR-10"]["clean"]
    assert entry["claim"]["reported_value"] == (0.94 if held else None) and entry["claim"]["reasons"] == reasons
    found = [line for line in csv.DictReader(io.StringIO(texts["csv"])) if line["metric"] == "accuracy.reported"]
    assert [(line["value"], line["low"], line["high"], line["cell"]) for line in found] == (
        [("0.94", "0.935", "0.945", "paper002/cifar10/dino_vitb16/clean")] if held else []
    )
    assert ("| 94 |" in texts["md"]) == held


def test_no_claim_is_found_for_another_version_data_eps_attack_or_encoder(tmp_path):
    changes = [
        {"protocol": {**HERE, "version": "1", "departures": []}},
        {"protocol": {**HERE, "name": "paper002-segmentation", "departures": []}},
        {"data": "stl10('somewhere', size=96)", "attack": "apgd(20)"},
        {"attack": "attack(apgd(20))"},
        {"encoder": "zoo('dino_vitb8')"},
        {"norm": "L2"},
    ]
    for number, change in enumerate(changes):
        store = Store(tmp_path / str(number))
        under(store, "task", 0, **change)
        assert only(store)["verdict"] == "no claim", change
    store = Store(tmp_path / "eps")
    under(store, "task", 0, eps=4)
    assert only(store)["verdict"] == "no claim"
    assert "no figure is known for: dino" in " ".join(protocol.sentences(table.grid(store.cells())))


@pytest.mark.parametrize("spec", ["classpgd()", "pgd(20)", "attack(pgd(20), loss=ce)"])
def test_pgd_is_found_under_each_of_its_names(tmp_path, spec):
    store = Store(tmp_path)
    under(store, "task", 0, attack=spec)
    assert only(store)["claim"] == "paper002/cifar10/dino_vitb16/task"


def test_weights_are_known_by_their_hash_and_at_another_size_are_not_compared(tmp_path):
    (claim,) = found("published_nets/resnet4b/resnet4b/clean")
    here = {**HERE, "name": "robustbench-cifar10-linf", "version": "1", "departures": []}
    card = {"name": "r", "size": [32, 32], "sha256": claim.sha256}
    for side, verdict in ((32, "agrees"), (64, "not comparable")):
        store = Store(tmp_path / str(side))
        under(
            store,
            "clean",
            9,
            protocol=here,
            encoder="file('r.pth', arch='resnet4b')",
            encoder_card=card | {"size": [side, side]},
        )
        line = only(store)
        assert line["verdict"] == verdict
        assert line["reasons"] == ([] if side == 32 else ["the encoder reads images at 64 px; reported is at 32 px"])


def test_an_unfinished_cell_has_no_verdict(tmp_path):
    store = Store(tmp_path)
    under(store, "clean", 11, finished=False)
    assert only(store)["reasons"] == [f"the cell is not finished: {N} of {N} images"]


def test_cells_without_a_protocol_stay_as_they_were(tmp_path):
    store = Store(tmp_path)
    add(store, "dino", "classify", "clean", 0, **DINO, encoder_card=CARD)
    made = table.grid(store.cells())
    assert protocol.groups(made) == [] and protocol.sentences(made) == []
    assert "Reported and measured" not in page.html(made)


def test_names_of_a_protocol_are_escaped(tmp_path):
    store = Store(tmp_path)
    under(store, "clean", 11, [HOSTILE], protocol={**HERE, "title": HOSTILE, "departures": [HOSTILE]})
    text = page.html(table.grid(store.cells()))
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_the_terminal_says_what_is_compared_and_what_is_not(tmp_path, capsys):
    store = Store(tmp_path)
    under(store, "clean", 11)
    under(store, "task", 0, ["attack.steps is 2, the protocol has 20"])
    print_table(grid(store.cells()), False)
    said = " ".join(capsys.readouterr().out.split())
    assert "reported 94, measured 91.7 [64.6–98.5] %: agrees" in said
    assert (
        "not comparable with paper 002, because: attack.steps is 2, the protocol has 20 (dino, classify on CIFAR-10: PGD Linf 8/255)"
        in said
    )


def test_a_depth_in_metres_disagrees_in_metres(tmp_path):
    store = Store(tmp_path)
    here = {**HERE, "name": "paper002-depth", "version": "1", "departures": []}
    add(
        store, "dino", "depth", "clean", 0, np.full(N, 1.0), **DINO | {"data": "nyuv2('x')", "data_name": "NYUv2"},
        encoder_card=CARD, protocol=here, attack="clean",
    )  # fmt: skip
    line = only(store)
    assert (line["reported"], line["measured"]) == ("0.61", "1.000")
    assert line["mark"] == "disagrees (by 0.390 m, measured is higher)"
