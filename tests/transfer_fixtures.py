"""The sets of the transfer suite in miniature, in the folders that torchvision expects below its root."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.data_fixtures import picture, save, text


def aircraft(root: Path) -> None:
    place = root / "fgvc-aircraft-2013b" / "data"
    text(place / "variants.txt", "707-320", "A330-200")
    for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4, 5))):
        rows = []
        for n in numbers:
            save(place / "images" / f"{n:07d}.jpg", picture(n, 20, 30 + n))
            rows.append(f"{n:07d} {'A330-200' if n % 2 else '707-320'}")
        text(place / f"images_variant_{split}.txt", *rows)


def caltech101(root: Path) -> None:
    for name, count in (("BACKGROUND_Google", 1), ("accordion", 32), ("yin_yang", 2)):
        for n in range(1, count + 1):
            save(root / "caltech101" / "101_ObjectCategories" / name / f"image_{n:04d}.jpg", picture(n, 20, 24))


def cars(root: Path) -> None:
    from scipy.io import savemat

    place = root / "stanford_cars"
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    (place / "devkit").mkdir(parents=True)
    savemat(str(place / "devkit" / "cars_meta.mat"), {"class_names": names})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        kind = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O"), ("class", "O"), ("fname", "O")]
        rows = np.zeros((1, 3), dtype=kind)
        for n in range(3):
            save(place / f"cars_{split}" / f"{n + 1:05d}.jpg", picture(n, 20, 30))
            rows[0, n] = (1, 2, 20, 15, n % 2 + 1, f"{n + 1:05d}.jpg")
        savemat(str(place / file), {"annotations": rows})


def dtd(root: Path) -> None:
    place = root / "dtd" / "dtd"
    for partition in (1, 2):
        for split, numbers in (("train", (1, 2)), ("val", (3,)), ("test", (4,))):
            rows = []
            for name in ("banded", "zigzagged"):
                for n in numbers:
                    save(place / "images" / name / f"{name}_{n:04d}.jpg", picture(n, 20, 24))
                rows += [f"{name}/{name}_{n:04d}.jpg" for n in (numbers if partition == 1 else numbers[:1])]
            text(place / "labels" / f"{split}{partition}.txt", *rows)


def eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        for n in range(5):
            save(root / "eurosat" / "2750" / name / f"{name}_{n}.jpg", picture(n, 64, 64))


def flowers102(root: Path) -> None:
    from scipy.io import savemat

    place = root / "flowers-102"
    for n in range(1, 7):
        save(place / "jpg" / f"image_{n:05d}.jpg", picture(n, 20, 24))
    savemat(str(place / "imagelabels.mat"), {"labels": np.array([[77, 1, 102, 5, 77, 9]])})
    savemat(
        str(place / "setid.mat"), {"trnid": np.array([[5, 1]]), "valid": np.array([[2, 3]]), "tstid": np.array([[4, 6]])}
    )


def food101(root: Path) -> None:
    place = root / "food-101"
    for split, numbers in (("train", (1, 2)), ("test", (3,))):
        listed = {name: [f"{name}/{n}" for n in numbers] for name in ("apple_pie", "waffles")}
        for files in listed.values():
            for n, file in enumerate(files):
                save(place / "images" / f"{file}.jpg", picture(n, 20, 24))
        text(place / "meta" / f"{split}.json", json.dumps(listed))


def pets(root: Path) -> None:
    place = root / "oxford-iiit-pet"
    for split, rows in (
        ("trainval", ("Abyssinian_1 1 1 1", "american_bulldog_2 2 2 1")),
        ("test", ("Abyssinian_3 1 1 1", "american_bulldog_4 2 2 1")),
    ):
        for n, row in enumerate(rows):
            save(place / "images" / f"{row.split()[0]}.jpg", picture(n, 20, 24))
        text(place / "annotations" / f"{split}.txt", *rows)


def sun397(root: Path) -> None:
    place = root / "SUN397"
    text(place / "ClassName.txt", "/a/abbey", "/b/bathroom/public")
    for name in ("a/abbey", "b/bathroom/public"):
        for n in range(4):
            save(place / name / f"sun_{n}.jpg", picture(n, 20, 24))
