"""Protocols: what contradicts one is refused with both values, and every departure of a cell is named."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hardsight.core.errors import SpecError
from hardsight.measure.departures import OWN, departures
from hardsight.measure.protocol import asked, load, names, text
from hardsight.specs.catalog import build, complete, minimal
from hardsight.specs.syntax import show

ROOT = ["data.root=PATH"]
DINO = "timm:vit_base_patch16_224.dino"


def cell(**changes: Any) -> dict[str, Any]:
    """The record of a cell that departs in nothing from robustbench-cifar10-linf."""
    card = {"size": 32, "resize": None, "arch": "resnet18", "source": "", "name": "net", "note": ""}
    return {
        "encoder": "tiny", "task": "classify(own)", "task_name": "classify", "data": "cifar10('PATH')", "data_name": "CIFAR-10",
        "attack": "autoattack", "threat": "linf(8/255)", "column": "AutoAttack", "probe": "probe", "split": "test",
        "count": 10000, "precision": "float32", "preprocess": "", "encoder_card": card,
        "data_card": {"classes": ["x"] * 10, "mask_classes": []}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_each_is_a_valid_recipe_and_shows_its_command(name: str) -> None:
    protocol = load(name)
    recipes = asked(protocol, [DINO], [f"{one.name}:PATH" for one in protocol.sets], {})
    assert all(recipe.check() and recipe.count >= 500 and len(recipe.data) == len(protocol.sets) for recipe in recipes)
    assert protocol.version >= 1 and protocol.measures.endswith(".") and f"--protocol {name}" in text(protocol)


def test_all_fourteen_are_there() -> None:
    papers = "000-imagenet 000-transfer 000-segmentation 000-detection 001-image 001-video 002-classification"
    papers += " 002-segmentation 002-depth 002-hardening 003-cifar10 003-cifar100"
    both = {"robustbench-cifar10-linf", "robustbench-imagenet-linf"}
    assert set(names()) == {f"paper{one}" for one in papers.split()} | both


def test_an_unknown_one_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'paper002-depth'"):
        load("paper002-dept")


@pytest.mark.parametrize(
    ("options", "settings", "both"),
    [
        ({"count": 50}, [], ("10000", "50")),
        ({"eps": ("2/255",)}, [], ("8/255", "2/255")),
        ({}, ["attacks.steps=5"], ("autoattack", "autoattack(steps=5)")),
        ({"attacks": ("segpgd",)}, [], ("autoattack", "segpgd")),
        ({"precision": "bf16"}, [], ("float32", "bf16")),
        ({"norm": "l2"}, [], ("linf", "l2")),
        ({}, ["split=train"], ("test", "train")),
    ],
)
def test_a_contradiction_is_refused_with_both_values(options: dict, settings: list[str], both: tuple[str, str]) -> None:
    protocol = load("robustbench-cifar10-linf")
    with pytest.raises(SpecError) as refused:
        asked(protocol, ["tiny"], [], options, [*ROOT, *settings])
    assert all(one in str(refused.value) for one in (*both, "--off-protocol"))
    allowed = asked(protocol, ["tiny"], [], options, [*ROOT, *settings], off=True)
    assert allowed != asked(protocol, ["tiny"], [], {}, ROOT)


def test_a_radius_that_is_no_number_is_told_as_that_and_not_as_a_contradiction() -> None:
    with pytest.raises(SpecError, match="eps 'abc' is not a number"):
        asked(load("paper002-classification"), ["zoo:dinov2_vits14"], ["cifar10:A"], {"eps": ("abc",)})


def test_every_contradiction_is_in_the_message() -> None:
    with pytest.raises(SpecError, match=r"count is 10000, and 5 .*precision is float32, and bf16"):
        asked(load("robustbench-cifar10-linf"), ["tiny"], [], {"count": 5, "precision": "bf16"}, ROOT)


def test_other_data_is_refused_and_so_is_another_size() -> None:
    protocol = load("paper002-segmentation")
    for data, told in (("camvid:PATH", "camvid"), ("voc:PATH(size=64)", "224, and 64")):
        with pytest.raises(SpecError, match=re.escape(told)):
            asked(protocol, [DINO], [data], {})
        assert asked(protocol, [DINO], [data], {}, off=True)[0].data


def test_the_same_value_in_other_words_and_a_choice_among_those_fixed_are_no_contradiction() -> None:
    protocol = load("paper003-cifar10")
    recipes = asked(protocol, ["tiny"], [], {"eps": ("0.01568627450980392",), "attacks": ("autoattack(steps=100)",)}, ROOT)
    assert [(one.attacks, one.eps) for one in recipes] == [(("clean", "autoattack"), ("4/255",))]


def test_data_are_one_set_or_all_with_the_side_of_the_encoders_input() -> None:
    protocol = load("paper002-segmentation")
    assert asked(protocol, [DINO], ["voc:A"], {})[0].data == ("voc(size=224, root='A')",)
    assert len(asked(protocol, [DINO], [], {}, ROOT)[0].data) == 3
    large = asked(load("paper002-classification"), ["zoo:dinov2_vits14"], ["stl10:A"], {})[0]
    assert large.data == ("resized(stl10(root='A'), 518)",)
    with pytest.raises(SpecError, match="unlike sides"):
        asked(protocol, [DINO, "zoo:dinov2_vits14"], [], {}, ROOT)


def test_a_root_with_only_some_of_the_sets_names_those(tmp_path) -> None:
    (tmp_path / "voc").mkdir()
    with pytest.raises(SpecError, match=r"no folder ade20k, cityscapes.*--data voc:"):
        asked(load("paper002-segmentation"), [DINO], [], {}, [f"data.root={tmp_path}"])


def test_crops_are_made_of_the_users_encoder() -> None:
    made = {one.encoders[0] for one in asked(load("paper003-cifar10"), ["tiny"], [], {}, ROOT)}
    assert made == {"tiny", "crops(tiny, n=1)", "crops(tiny, n=4)", "crops(tiny, n=16)"}


def test_a_cell_that_departs_in_nothing_has_no_departure() -> None:
    assert departures(load("robustbench-cifar10-linf"), cell(), 10000) == []
    assert departures(load("robustbench-cifar10-linf"), cell(column="clean", attack="clean", threat="linf(0)"), 10000) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"count": 50}, "50 images are measured; the protocol measures 10,000"),
        ({"attack": "autoattack(steps=5)"}, "the attack: steps is 5; the protocol's is 100"),
        ({"attack": "classpgd"}, "the attack is classpgd; the protocol's is autoattack"),
        ({"threat": "linf(2/255)"}, "the threat: eps is 2/255; the protocol's is 8/255"),
        ({"threat": "l2(0.5)"}, "the threat is l2(0.5); the protocol's is linf(8/255)"),
        ({"task": "classify(knn)"}, "the task: head is 'knn'; the protocol's is 'own'"),
        ({"split": "train"}, "the part 'train' of the data is measured; the protocol measures 'test'"),
        ({"precision": "bf16"}, "the attack runs in bf16; the protocol's in float32"),
        ({"data": "resized(cifar10('PATH'), 96)"}, "the data is resized(cifar10, 96); the protocol's is cifar10"),
        ({"data": "cifar100('PATH')", "data_name": "CIFAR-100"}, "the data are CIFAR-100; the protocol's are cifar10"),
        ({"data_card": {"classes": ["x"] * 2}}, "CIFAR-10 has 2 classes here; the published set has 10"),
        ({"encoder": "crops(tiny, 4)"}, "the embedding is that of crops(...), not the encoder's own"),
    ],
)
def test_each_departure_is_one_sentence(changes: dict[str, Any], told: str) -> None:
    assert departures(load("robustbench-cifar10-linf"), cell(**changes), 10000) == [told]


def test_fewer_images_on_disk_and_unreadable_ones_are_told() -> None:
    found = departures(load("robustbench-cifar10-linf"), cell(), 9000, skipped=3)
    assert found == [
        "CIFAR-10 has 9,000 images in 'test' on this disk; the published set has 10,000",
        "3 of the images could not be read",
    ]


def test_all_departures_are_collected_with_what_the_protocol_says_of_itself() -> None:
    protocol = load("paper002-classification")
    what = cell(
        task="classify", column="task", attack="classpgd(steps=5)", count=10, probe="probe(epochs=1)",
        data="resized(cifar10('PATH'), 64)",
    )  # fmt: skip
    found = departures(protocol, what, 10000)
    parts = ("steps is 5", "10 images", "epochs is 1", "batch is None", "size is 64", "an input of 224", *protocol.differs)
    assert all(any(part in one for one in found) for part in parts)


def test_the_preprocessing_of_pictures_is_compared() -> None:
    what = cell(
        data="imagenet('PATH', evaluation(224, 224))", data_name="ImageNet", threat="linf(4/255)", count=5000, split="val",
        data_card={"classes": ["x"] * 1000}, preprocess="evaluation(224, 224)",
    )  # fmt: skip
    protocol = load("robustbench-imagenet-linf")
    told = "the images are prepared by evaluation(224, 224); the protocol's by evaluation(224, 256) or evaluation(288)"
    assert departures(protocol, what, 50000) == [told, *protocol.differs]
    what |= {"preprocess": "evaluation(224, 256)", "data": "imagenet('PATH', evaluation(224, 256))"}
    assert departures(protocol, what, 50000) == list(protocol.differs)


def test_of_several_parts_the_nearest_counts() -> None:
    protocol = load("paper003-cifar10")
    what = cell(
        task="classify", probe=show(minimal(protocol.parts[0].recipe.probe)), encoder="crops(tiny, n=4)",
        attack="classpgd(step=0.6375)", threat="linf(4/255)",
    )  # fmt: skip
    assert departures(protocol, what, 10000) == list(protocol.differs)
    assert any("step is 0.25" in one for one in departures(protocol, {**what, "attack": "classpgd"}, 10000))


def test_the_tasks_own_attacks_are_those_of_the_tasks() -> None:
    assert {name: build(name, "Task").attack for name in OWN} == OWN
    assert all(complete(one, "Attack") for one in OWN.values())
