"""Images of unlike sizes are prepared as each encoder's authors evaluate it; the cells, the run and the report say so."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hardsight.core.errors import DataError, SpecError
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.report import table as tables
from hardsight.report.page import html
from hardsight.report.pictures import galleries
from hardsight.report.results import grid
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store

TIMM, TV = "timm:resnet18(pretrained=False, size=48)", "tv:resnet18(weights=None, size=32)"
OF_TIMM, OF_TV = "evaluation(48, resize=50, interpolation='bicubic')", "evaluation(32, resize=36)"


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("unlike"), np.random.default_rng(0)
    for part, name in ((part, name) for part in ("train", "test") for name in "ab"):
        (root / part / name).mkdir(parents=True)
        for place in range(4):
            pixels = rng.integers(0, 255, (40 + 7 * place, 90 - 5 * place, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / part / name / f"{place}.png")
    return root


@pytest.fixture(scope="module")
def recipe(unlike):
    given = {"tasks": ("classify",), "attacks": ("clean", "fgsm"), "probe": "probe(epochs=1)", "count": 4, "audit": 0}
    return Recipe(encoders=(TIMM, TV), data=(f"folder('{unlike}')",), **given)


def test_each_encoder_gets_its_own_pictures_and_the_cells_say_which(recipe):
    planned = plan(recipe)
    assert [cell.data.partition("size=")[2][:-1] for cell in planned.cells] == [OF_TIMM, OF_TIMM, OF_TV, OF_TV]
    assert [one.images.sample(0).image.shape[-1] for one in planned.resolved] == [48, 48, 32, 32]
    assert len(planned.notes) == 1 and OF_TIMM in planned.notes[0] and OF_TV in planned.notes[0]
    dense = plan(replace(recipe, tasks=("classify", "segment")))
    assert len(dense.cells) == 4 and any("segment" in text for text in dense.left_out)


def test_a_preprocessing_can_be_set_for_all_encoders_or_left_to_the_data(recipe, unlike):
    same = plan(recipe.with_set("preprocess=evaluation(40, 44)"))
    assert {cell.data.partition("size=")[2][:-1] for cell in same.cells} == {"evaluation(40, resize=44)"}
    with pytest.raises(DataError, match="one size"):
        plan(recipe.with_set("preprocess=data"))
    sized = plan(replace(recipe, data=(f"folder('{unlike}', size=24)",)))
    assert {cell.data for cell in sized.cells} == {f"folder('{unlike}', size=24)"} and not sized.notes
    with pytest.raises(SpecError, match="preprocess"):
        plan(replace(recipe, data=("made",), preprocess="evaluation(40, 44)"))
    with pytest.raises(SpecError, match="evaluatio"):
        recipe.with_set("preprocess=evaluatio(40)").check()


def test_an_encoder_without_a_preprocessing_is_refused_before_anything_is_trained(recipe):
    with pytest.raises(SpecError, match=r"doesn't say how its authors prepare pictures: give --set preprocess="):
        plan(replace(recipe, encoders=("tiny",)))


def test_the_report_says_that_pictures_are_unlike_and_shows_each(recipe, tmp_path):
    planned = plan(recipe)
    table = grid(Bench(planned, Store(tmp_path / "store"), "cpu").run())
    assert [bool(data.splits["test"]._kept) for data in planned.data.values()] == [False, True]
    assert [(row.task, row.data) for row in table.rows] == [("classify", table.rows[0].data)] * 2
    assert f"encoders saw unlike pictures of the same images: {OF_TV} for " in tables.caption(table)
    (gallery,) = galleries(table)
    assert len(gallery.scenes) == 8 and all(len(scene.lines) == 1 for scene in gallery.scenes)
    assert "encoders saw unlike pictures" in html(table)


def test_one_encoder_has_one_preprocessing_in_the_caption(recipe, tmp_path):
    table = grid(Bench(plan(replace(recipe, encoders=(TV,), attacks=("clean",))), Store(tmp_path / "store"), "cpu").run())
    assert f"images prepared by {OF_TV}" in tables.caption(table)


@pytest.mark.slow
def test_a_real_network_sees_what_its_own_transform_shows_it(real_data, tmp_path):
    """100 ImageNet images, MobileNetV2: 85 % as timm's configuration says, image by image; 79 % by size=224."""
    from timm.data import create_transform, resolve_data_config

    encoder = (
        f"file:{real_data}/weights/mobilenetv2_100_imagenet_int8deq.npz(arch='mobilenetv2_100', "
        "options={'pad_type': 'same'}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    )
    asked = Recipe(
        encoders=(encoder,), tasks=("classify(head=own)",), data=(f"folder:{real_data}/imagenet_samples",),
        attacks=("clean",), audit=0, gallery=0, count=100,
    )  # fmt: skip
    (cell,) = Bench(plan(asked), Store(tmp_path / "store"), "cpu").run()
    model = load_encoder(encoder)
    config = resolve_data_config({}, pretrained_cfg=model.body.model.pretrained_cfg, use_test_size=True)
    transform = create_transform(**{**config, "mean": (0.5,) * 3, "std": (0.5,) * 3})
    right = {}
    with torch.no_grad(), (real_data / "imagenet_samples" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            image = Image.open(real_data / "imagenet_samples" / row["file"]).convert("RGB")
            right[row["file"]] = int(model.body.model(transform(image)[None]).argmax()) == int(row["class_index"])
    rows = cell.rows()
    assert dict(zip(map(str, rows["id"]), map(bool, rows["counts.hits"]), strict=True)) == right
    assert sum(right.values()) == 85
