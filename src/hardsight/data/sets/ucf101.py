"""UCF101: videos of 101 actions in class folders, and the publisher's three splits as list files.

    UCF-101/<Class>/v_<Class>_g01_c01.avi
    ucfTrainTestlist/classInd.txt                    "1 ApplyEyeMakeup": the classes, numbered from 1
                    /trainlist01.txt ... 03.txt      "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1"
                    /testlist01.txt ... 03.txt       the same without the number

Clips of one group (g01) come from one film, so a random split would leak test data into training: only the lists are used.
"""

from __future__ import annotations

from hardsight.data.base import Data, DataCard
from hardsight.data.get import Published
from hardsight.data.sets.video import by_lists
from hardsight.specs.catalog import register

EXPECTED = "a folder with UCF-101/<Class>/*.avi and ucfTrainTestlist/"
PUBLISHED = {
    "ucf101": Published(
        "https://www.crcv.ucf.edu/data/UCF101.php",
        {"train": 9537, "test": 3783},
        by_hand="unpack UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip into one folder",
    )
}


@register
def ucf101(root: str, frames: int = 16, stride: int | None = None, size: int | tuple[int, int] = 112, fold: int = 1) -> Data:
    """UCF101, clips of 101 human actions, from the folder that contains UCF-101 and ucfTrainTestlist.

    frames, stride, size: as for `video`. fold: which of the three splits. Folders of frames may replace the videos. Source:
    Soomro, Zamir and Shah, CRCV-TR-12-01, 2012. Raises `DataError`, with the line of the list, for a missing clip.
    """
    card = DataCard("UCF101", ("label",), (0, 0), source="Soomro et al., CRCV-TR-12-01", frames=frames)
    return by_lists(root, card, r"classInd\.txt|(train|test)list\d\d\.txt", EXPECTED, stride, size, fold)
