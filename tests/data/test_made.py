"""Synthetic scenes: the same on every machine and in any batch, with ground truth that matches the geometry."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch

from hardsight.core.errors import DataError
from hardsight.data.base import Data, Images
from hardsight.data.made import made, renderer
from hardsight.data.made.draws import keys, uniform
from hardsight.data.made.renderer import MAX_DEPTH, render
from hardsight.data.made.scene import OBJECTS, Layout, labels, lay
from hardsight.data.made.solids import FACE_SCALE, FACE_SHIFT, SHAPES, SOLIDS, meet
from hardsight.specs.catalog import build

FROZEN = "136286d17437150eb3c6c4e09ec4ce1f"
SPHERE = SHAPES.index("sphere")


@pytest.fixture(scope="module")
def data() -> Data:
    return made(train=96, test=24)


@pytest.fixture(scope="module")
def whole(data: Data) -> tuple:
    return data.split("train").batch(range(96))


def test_the_pixels_are_frozen(data: Data) -> None:
    """Changing this number changes every reported result on synthetic data: say so in the commit."""
    digest = hashlib.sha256()
    for name in ("train", "test"):
        _, images, target = data.split(name).batch(range(24))
        for part in (images, target["label"], target["mask"].to(torch.uint8), target["depth"]):
            digest.update(part.numpy().tobytes())
    assert digest.hexdigest()[:32] == FROZEN


def test_draws_are_frozen() -> None:
    key = keys(3, 1, np.array([0, 5]))
    assert uniform(key, "colour", 2).tolist() == [
        [0.4692454934120178, 0.6446571350097656],
        [0.8325091004371643, 0.3400568962097168],
    ]


def test_a_scene_alone_is_the_scene_in_a_block(whole: tuple) -> None:
    _, images, target = whole
    for place in (0, 17, 95):
        alone = render(lay(0, 0, np.array([place])), 64)
        assert np.array_equal(alone.image[0], images[place].numpy())
        assert np.array_equal(alone.mask[0], target["mask"][place].numpy())
        assert np.array_equal(alone.depth[0], target["depth"][place].numpy())


def test_sample_and_batch_agree_and_keep_to_the_contract(data: Data, whole: tuple) -> None:
    train = data.split("train")
    assert isinstance(train, Images)
    assert len(train) == 96
    ids, images, target = whole
    assert len(set(ids)) == 96
    for place in (0, 40, 95):
        sample = train.sample(place)
        assert sample.id == ids[place]
        assert torch.equal(sample.image, images[place])
        assert sample.image.dtype == torch.uint8
        assert sample.image.shape == (3, 64, 64)
        for name, kind, shape in (
            ("label", torch.int64, ()),
            ("mask", torch.int64, (64, 64)),
            ("depth", torch.float32, (64, 64)),
        ):
            assert torch.equal(sample.target[name], target[name][place])
            assert sample.target[name].dtype == kind
            assert sample.target[name].shape == shape
        assert sample.target["boxes"].dtype == torch.float32
        assert sample.target["box_labels"].dtype == torch.int64
        assert len(sample.target["boxes"]) == len(sample.target["box_labels"]) >= 1
    assert data.card.mask_classes == ("background", "ground", *data.card.classes)
    assert set(data.card.targets) == {"label", "mask", "depth", "boxes"}


def test_what_is_returned_is_the_callers_own(data: Data) -> None:
    train = data.split("train")
    first = train.sample(3)
    kept = first.image.clone()
    first.image.zero_()
    first.target["mask"].zero_()
    first.target["depth"].zero_()
    again = train.sample(3)
    assert torch.equal(again.image, kept)
    assert again.target["mask"].max() > 1
    assert again.target["depth"].max() > 0


def test_a_copy_is_the_same_scenes(data: Data) -> None:
    copied = pickle.loads(pickle.dumps(data.split("test")))
    assert torch.equal(copied.sample(2).image, data.split("test").sample(2).image)


def test_without_room_to_keep_them_scenes_are_the_same(whole: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.data.made.MEMORY", 0)
    train = made(train=96, test=1).split("train")
    assert not train.keeps
    ids, images, target = train.batch([5, 70, 5])
    assert ids[0] == ids[2] == whole[0][5]
    assert torch.equal(images[1], whole[1][70])
    assert torch.equal(images[0], images[2])
    assert torch.equal(target["depth"][1], whole[2]["depth"][70])
    assert torch.equal(train.sample(70).image, images[1])


def test_each_class_is_main_equally_often() -> None:
    count = len(SHAPES)
    drawn = labels(7, 0, np.arange(5 * count))
    assert all(sorted(run) == list(range(count)) for run in drawn.reshape(5, count).tolist())
    assert len({tuple(run) for run in drawn.reshape(5, count).tolist()}) > 1


def test_the_main_object_is_in_sight(whole: tuple) -> None:
    _, _, target = whole
    for label, mask in zip(target["label"], target["mask"], strict=True):
        assert (mask == label + 2).sum() > 150
        assert (mask[20:44, 20:44] == label + 2).sum() > 40


def test_depth_is_given_except_for_the_sky_and_the_far_ground(whole: tuple) -> None:
    mask, depth = whole[2]["mask"], whole[2]["depth"]
    assert torch.isfinite(depth).all()
    assert (depth[mask == 0] == 0).all()
    assert (depth[mask >= 2] > 0.5).all()
    assert depth.max() <= MAX_DEPTH
    assert (depth[:, -1] > 0).all()
    # Only ground may be too far away, and then no closer ground is above it in its column.
    far = (mask == 1) & (depth == 0)
    rows = torch.arange(64)[None, :, None].expand_as(mask)
    highest_near = torch.where((mask == 1) & (depth > 0), rows, 64).amin(1)
    lowest_far = torch.where(far, rows, -1).amax(1)
    assert (lowest_far < highest_near).all()


def test_boxes_hold_exactly_what_is_seen(data: Data) -> None:
    checked = 0
    for place in range(48):
        target = data.split("train").sample(place).target
        boxes, names, mask = target["boxes"], target["box_labels"], target["mask"]
        assert set(names.tolist()) == set((mask[mask >= 2] - 2).tolist())
        for name in set(names.tolist()):
            rows, columns = torch.nonzero(mask == name + 2, as_tuple=True)
            around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            same = boxes[names == name]
            assert torch.equal(torch.cat([same[:, :2].amin(0), same[:, 2:].amax(0)]), around)
            checked += len(same) == 1
    assert checked > 48


def test_another_size_is_the_same_scene(whole: tuple) -> None:
    _, images, target = made(size=128, train=12, test=1).split("train").batch(range(12))
    for offset in ((0, 0), (1, 1)):
        small = target["mask"][:, offset[0] :: 2, offset[1] :: 2]
        assert (small == whole[2]["mask"][:12]).float().mean() > 0.95
    shrunk = torch.nn.functional.avg_pool2d(images.float(), 2)
    assert (shrunk - whole[1][:12].float()).abs().mean() < 8


def test_splits_seeds_and_places_share_no_scene() -> None:
    seen = [key for seed in (0, 1) for part in (0, 1) for key in keys(seed, part, np.arange(2000)).tolist()]
    assert len(set(seen)) == len(seen)
    data = made(train=8, test=8)
    assert not torch.equal(data.split("train").sample(0).image, data.split("test").sample(0).image)


def test_more_scenes_do_not_change_the_first(data: Data) -> None:
    assert torch.equal(made(train=5, test=1).split("train").sample(4).image, data.split("train").sample(4).image)


def bare(shape: int, centre: tuple[float, float, float], radius: float, height: float) -> Layout:
    """One object in front of a horizontal camera that looks along y, with a focal length of one image width."""
    frame, place = np.zeros((1, OBJECTS, 3, 3)), np.zeros((1, OBJECTS, 3))
    frame[:] = np.eye(3) / radius
    place[0, 0] = centre
    kinds = np.full((1, OBJECTS), -1)
    kinds[0, 0] = shape
    still = (np.array([height]), np.array([[1.0, 0.0]]), np.array([1.0]), np.array([[0.0, 0.6, 0.8]]))
    return Layout(keys(0, 0, np.arange(1)), np.zeros(1, dtype=np.int64), *still, kinds, place, frame)


def test_sphere_and_ground_are_as_deep_as_geometry_says() -> None:
    size, height, radius, centre = 64, 1.5, 0.9, (0.2, 4.0, 1.0)
    frames = render(bare(SPHERE, centre, 1.0, height), size)
    grid = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(grid, -grid)
    a = x * x + y * y + 1
    b = x * centre[0] + y * (centre[2] - height) + centre[1]
    inside = b * b - a * (centre[0] ** 2 + centre[1] ** 2 + (centre[2] - height) ** 2 - radius**2)
    ball = inside > 0
    ground = ~ball & (y < 0)
    truth = np.where(ball, (b - np.sqrt(np.maximum(inside, 0))) / a, np.where(ground, height / np.maximum(-y, 1e-9), 0))
    truth[truth > MAX_DEPTH] = 0
    assert np.array_equal(frames.mask[0], np.where(ball, 2 + SPHERE, ground))
    assert np.abs(frames.depth[0] - truth).max() < 1e-4


def test_a_cube_seen_head_on_is_flat() -> None:
    cube = SHAPES.index("cube")
    frames = render(bare(cube, (0.0, 4.0, 1.5), 1.0, 1.5), 64)
    face = frames.mask[0] == cube + 2
    half = 0.75 / 3.25 * 64
    assert face.sum() == (2 * round(half)) ** 2
    assert np.abs(frames.depth[0][face] - 3.25).max() < 1e-5


@pytest.mark.parametrize("name", SHAPES)
def test_solids_keep_to_their_box_their_reach_and_their_rests(name: str) -> None:
    solid, shape = SOLIDS[name], SHAPES.index(name)
    aim = uniform(keys(0, 9, np.arange(4000)), "rays", 6).T.astype(np.float32) * 2 - 1
    length = np.sqrt(aim[0] * aim[0] + aim[1] * aim[1] + aim[2] * aim[2])
    origin = aim[:3] / length * np.float32(4)
    direction = aim[3:] * np.float32(1.2) - origin
    t, face = meet(shape, tuple(origin), tuple(direction))
    hit = t < 10
    assert hit.sum() > 400
    points = (origin + t * direction)[:, hit].astype(np.float64)
    normals = points * FACE_SCALE[:, face[hit]] + FACE_SHIFT[:, face[hit]]
    assert ((normals * direction[:, hit]).sum(0) < 1e-3).all()
    assert (np.abs(points) <= np.array(solid.box)[:, None] + 1e-3).all()
    assert np.sqrt((points * points).sum(0)).max() <= solid.reach + 1e-2
    for *normal, high in solid.rests:
        touch = (np.array(normal)[:, None] * points).sum(0).max()
        assert touch <= high + 1e-3
        assert touch > high - 0.2 * np.linalg.norm(normal)


def test_boxes_on_screen_lose_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Testing every ray with every object gives the same scene as testing only the rays of its box."""
    layout = lay(2, 0, np.arange(6))
    quick = render(layout, 32)
    everything = renderer.gather

    def gather_all(*args: object) -> object:
        objects = everything(*args)
        for boxes in (objects.boxes, objects.shade_boxes):
            boxes[:2], boxes[2:] = 0, 32
        return objects

    monkeypatch.setattr(renderer, "gather", gather_all)
    slow = render(layout, 32)
    assert np.array_equal(quick.mask, slow.mask)
    assert np.array_equal(quick.depth, slow.depth)
    assert np.array_equal(quick.image, slow.image)


@pytest.mark.parametrize("size", [16, 33, 224])
def test_other_sizes(size: int) -> None:
    sample = made(size=size, train=2, test=1).split("test").sample(0)
    assert sample.image.shape == (3, size, size)
    assert sample.target["boxes"].max() <= size


@pytest.mark.parametrize("wrong", [{"size": 8}, {"size": 1000}, {"train": 0}, {"test": -1}])
def test_wrong_arguments_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=rf"made: {next(iter(wrong))} is {next(iter(wrong.values()))}") as caught:
        made(**wrong)
    assert "\n" not in str(caught.value)


def test_a_place_outside_is_refused(data: Data) -> None:
    for place in (-1, 24):
        with pytest.raises(IndexError, match="valid indices are 0 to 23"):
            data.split("test").sample(place)


def test_the_catalog_builds_it() -> None:
    data = build("made(size=32, train=4, test=2)", "Data")
    assert isinstance(data, Data)
    assert data.card.size == (32, 32)


def test_chosen_shapes_are_the_same_scenes_without_the_others(data: Data, whole: tuple) -> None:
    ids, images, target = whole
    some = made(train=40, shapes=("cube", "sphere")).split("train")
    found_ids, found, found_target = some.batch(range(16))
    wanted = [place for place in range(96) if SHAPES[int(target["label"][place])] in ("cube", "sphere")]
    assert found_ids == [ids[place] for place in wanted]
    assert torch.equal(found, images[wanted])
    assert torch.equal(found_target["label"], target["label"][wanted])
    assert some.sample(39).id in (one := pickle.loads(pickle.dumps(some))).batch([39])[0]
    assert len(one) == 40


def test_an_unknown_shape_names_the_nearest() -> None:
    with pytest.raises(DataError, match="no shape 'spere'; did you mean 'sphere'"):
        made(shapes=("spere",))
