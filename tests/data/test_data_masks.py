"""Masks of the published data sets: compared with the written files and with torchvision, and errors in the files."""

from __future__ import annotations

import numpy as np
import pytest

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import IGNORE
from hardsight.data.images import fit, open_image, open_mask
from tests.data.test_data_bad import ask
from tests.data.test_data_sets import decoded, shown
from tests.fixtures import data_sets as sets


def test_ade20k(tmp_path):
    written = sets.ade20k(tmp_path)
    data = open_data(f"ade20k(root={str(tmp_path)!r}, size=[14, 18])")
    assert data.card.mask_classes[0] == "thing 1" and data.card.mask_classes[149] == "thing 150"
    seen = 0
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            labelled = written[sample.id].astype(int)
            wanted = np.where(labelled == 0, IGNORE, labelled - 1).astype(np.uint8)
            assert np.array_equal(sample.target["mask"].numpy(), fit(wanted, (14, 18), nearest=True))
            assert np.array_equal(shown(sample.image), fit(decoded(tmp_path / "ADEChallengeData2016" / sample.id), (14, 18)))
            seen += 1
    assert seen == 5
    (tmp_path / "ADEChallengeData2016" / "objectInfo150.txt").unlink()
    assert open_data(f"ade20k(root={str(tmp_path)!r}, size=8)").card.mask_classes[3] == "class 4"


def test_cityscapes_as_torchvision_names_it(tmp_path):
    from torchvision.datasets import Cityscapes

    written = sets.cityscapes(tmp_path)
    train_id = {one.id: one.train_id for one in Cityscapes.classes if one.id >= 0}
    data = open_data(f"cityscapes:{tmp_path}")
    assert data.card.mask_classes == tuple(one.name for one in Cityscapes.classes if 0 <= one.train_id < 19)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 3, "val": 2}
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            wanted = np.vectorize(train_id.get)(written[sample.id])
            assert np.array_equal(sample.target["mask"].numpy(), wanted)


def test_voc_masks_as_torchvision_reads_them(tmp_path):
    from torchvision.datasets import VOCSegmentation

    masks = sets.voc(tmp_path)["masks"]
    data = open_data(f"voc(root={str(tmp_path)!r}, size=[18, 22])")
    for part in ("train", "val"):
        theirs = VOCSegmentation(str(tmp_path), image_set=part)
        assert len(theirs) == len(data.split(part))
        for place in range(len(theirs)):
            sample, (image, mask) = data.split(part).sample(place), theirs[place]
            name = sample.id.rpartition("/")[2].removesuffix(".jpg")
            assert np.array_equal(np.array(mask), masks[name])
            assert np.array_equal(sample.target["mask"].numpy(), fit(masks[name], (18, 22), nearest=True))
            assert np.array_equal(shown(sample.image), fit(np.array(image), (18, 22)))


@pytest.mark.parametrize(
    ("name", "write", "mask", "strange", "valid"),
    [
        ("ade20k", sets.ade20k, "ADEChallengeData2016/annotations/training/ADE_train_00000001.png", 151, "1 to 150, and 0"),
        ("cityscapes", sets.cityscapes, "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", 34, "0 to 33"),
        ("voc", sets.voc, "VOCdevkit/VOC2012/SegmentationClass/2012_000001.png", 21, "0 to 20, and 255"),
    ],
)
def test_bad_masks(tmp_path, name, write, mask, strange, valid):
    write(tmp_path)
    path, spec = tmp_path / mask, ask(name, tmp_path, size=16)
    good = np.zeros((16, 32) if name == "cityscapes" else (13, 19) if name == "ade20k" else (21, 29), np.uint8)
    sets.save(path, good)
    open_data(spec).split("train").sample(0)
    bad = good.copy()
    bad[2, 3] = strange
    for array, message in (
        (bad, f"{path.name} has the id {strange}; .*{valid}"),
        (good[:, :-1], f"{path.name} is {good.shape[1] - 1}x{good.shape[0]} pixels, its image is"),
        (np.dstack([good] * 3), f"{path.name} has colour mode RGB; a mask must be"),
    ):
        sets.save(path, array)
        with pytest.raises(DataError, match=message):
            open_data(spec).split("train").sample(0)
    path.unlink()
    with pytest.raises(DataError, match=f"has no mask: expected the file {path}"):
        open_data(spec).split("train").sample(0)


def test_bad_lists_of_masks(tmp_path):
    sets.ade20k(tmp_path)
    names = tmp_path / "ADEChallengeData2016" / "objectInfo150.txt"
    sets.text(names, "Idx\tName", "1\twall")
    with pytest.raises(DataError, match=r"objectInfo150.txt lists 1 classes; it should have the numbers 1 to 150"):
        open_data(ask("ade20k", tmp_path, size=8))
    sets.cityscapes(tmp_path / "city")
    sets.save(tmp_path / "city/leftImg8bit/train/aachen/odd.png", sets.picture(0, 16, 32))
    with pytest.raises(DataError, match=r"odd.png is not a Cityscapes image; its name must end in _leftImg8bit.png"):
        len(open_data(ask("cityscapes", tmp_path / "city")).split("train"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", [0, 3])
def test_ids_of_few_bits_are_read_as_stored(bits, colours, tmp_path):
    """Pillow spreads grey of 2 and 4 bits over 0 to 255: the ids 0, 1 and 15 were read as 0, 17 and 255."""
    stored = np.arange(2 ** min(bits, 4), dtype=np.uint8)[None].repeat(3, 0)
    (tmp_path / "mask.png").write_bytes(data := sets.png(stored, bits, colours))
    assert np.array_equal(open_mask(tmp_path / "mask.png"), stored)
    assert np.array_equal(open_mask(data), stored)
    if colours == 0:  # as an image, the largest value is white
        assert np.array_equal(open_image(data)[..., 0], stored * (255 // (2**bits - 1)))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("white", [0, 1])
def test_ids_of_tiff_are_read_as_stored(bits, white):
    """Pillow also inverts the values where 0 is white: the ids 0 and 1 of 4 bits were read as 255 and 238."""
    stored = np.arange(2 ** min(bits, 4), dtype=np.uint8)[None].repeat(3, 0)
    data = sets.tiff(stored, bits, white)
    assert np.array_equal(open_mask(data), stored)
    grey = stored.astype(int) * (255 // (2**bits - 1))
    assert np.array_equal(open_image(data)[..., 0], grey if white else 255 - grey)


def test_a_set_with_masks_of_four_bits(tmp_path):
    stored = np.arange(12, dtype=np.uint8)[None].repeat(3, 0)
    sets.save(tmp_path / "test" / "a.png", sets.picture(0, 3, 12))
    (tmp_path / "testannot").mkdir()
    (tmp_path / "testannot" / "a.png").write_bytes(sets.png(stored, 4))
    mask = open_data(f"camvid:{tmp_path}").split("test").sample(0).target["mask"]
    assert mask[0].tolist() == [*range(11), IGNORE]
