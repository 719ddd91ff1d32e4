"""HMDB51: videos of 51 actions in class folders, and the publisher's three splits, one list per class and split.

    hmdb51_org/<class>/*.avi                                      unpacked from one .rar per class
    testTrainMulti_7030_splits/<class>_test_split1.txt ... 3.txt  "a_clip.avi 1": 1 is train, 2 is test, 0 is neither

The video folders may be anywhere below the root. Classes are numbered in alphabetical order.
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
    """HMDB51, clips of 51 human actions, from the folder that contains the class folders and the split lists.

    frames, stride, size: as for `video`. fold: which of the three splits. Folders of frames may replace the videos. Source:
    Kuehne et al., ICCV 2011. Raises `DataError`, with the line of the list, for a missing clip.
    """
    card = DataCard("HMDB51", ("label",), (0, 0), source="Kuehne et al., ICCV 2011", frames=frames)
    return by_lists(root, card, r".+_test_split\d\.txt", EXPECTED, stride, size, fold)
