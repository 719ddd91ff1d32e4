"""HMDB51: videos of 51 actions in class folders, and the publisher's three splits, a list a class and split.

    hmdb51_org/<class>/*.avi                                      unpacked from a .rar a class
    testTrainMulti_7030_splits/<class>_test_split1.txt ... 3.txt  "a_clip.avi 1": 1 to train, 2 to test, 0 in neither

The folders of videos may lie below the root by any name, as people unpack them. Classes count in the order of their names.
"""

from __future__ import annotations

from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.sets.video import by_lists
from hardsight.specs.catalog import register

EXPECTED = "a folder with <class>/*.avi and <class>_test_split1.txt somewhere within"
PUBLISHED = {
    "hmdb51": Published(
        "https://serre.lab.brown.edu/hmdb51.html",
        {"train": 3570, "test": 1530},
        by_hand="unpack hmdb51_org.rar, the .rar of each class in it, and test_train_splits.rar into one folder",
    )
}


@register
def hmdb51(root: str, frames: int = 16, stride: int | None = None, size: int | tuple[int, int] = 112, fold: int = 1) -> Data:
    """HMDB51, clips of 51 human actions, from the folder that holds the class folders and the split lists.

    frames, stride, size: as for `video`. fold: which of the three splits. Folders of frames may stand in for the videos. Source:
    Kuehne et al., ICCV 2011. Raises `DataError`, with the line, for a clip that is not there.
    """
    card = DataCard("HMDB51", ("label",), (0, 0), source="Kuehne et al., ICCV 2011", frames=frames)
    return by_lists(root, card, r".+_test_split\d\.txt", EXPECTED, stride, size, fold)
