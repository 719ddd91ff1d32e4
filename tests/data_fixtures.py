"""The published data sets in miniature: each writer lays out a few drawn images exactly as the publisher lays out his.

The layouts were taken from the publishers' pages and from torchvision's readers; nothing here is anybody's data. A writer puts
its set below `root` and answers what a test wants to compare with.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n03444034")
"""Of ImageNet's classes, labels 0 and 1 and a later one."""


def picture(seed: int, high: int = 12, wide: int = 16) -> np.ndarray:
    """Coarse patches of colour, uint8 [H, W, 3]: no two seeds alike, and JPEG keeps them apart."""
    patches = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(patches).resize((wide, high), Image.Resampling.NEAREST))


def ids(seed: int, most: int, high: int = 12, wide: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, (high, wide)).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, format="JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", **options)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


# Arrays


def cifar100(root: Path) -> dict[str, Any]:
    place, written = root / "cifar-100-python", {}
    place.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", 6), ("test", 4))):
        rng = np.random.default_rng(seed)
        written[name] = {
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"fine_labels": rng.integers(0, 100, count).tolist(),
            b"coarse_labels": rng.integers(0, 20, count).tolist(),
            b"filenames": [b"x.png"] * count,
            b"batch_label": b"training batch 1 of 1",
        }
        (place / name).write_bytes(pickle.dumps(written[name], protocol=2))
    meta = {
        b"fine_label_names": [b"fine %d" % n for n in range(100)],
        b"coarse_label_names": [b"c %d" % n for n in range(20)],
    }
    (place / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return written


def stl10(root: Path) -> dict[str, np.ndarray]:
    """Planes are written column by column; the images [N, H, W, 3] that they show are answered."""
    place, written = root / "stl10_binary", {}
    place.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", 4), ("test", 3), ("unlabeled", 2))):
        images = np.stack([picture(10 * seed + n, 96, 96) for n in range(count)])
        images.transpose(0, 3, 2, 1).tofile(place / f"{name}_X.bin")
        written[name] = images
        if name != "unlabeled":
            np.arange(1, count + 1, dtype=np.uint8).tofile(place / f"{name}_y.bin")
    text(place / "class_names.txt", "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    return written


# Masks


def ade20k(root: Path) -> dict[str, np.ndarray]:
    """0 is what nobody labelled; sizes differ, as they do there. Answers the annotations by the images' ids."""
    place, written = root / "ADEChallengeData2016", {}
    for split, short, count in (("training", "train", 3), ("validation", "val", 2)):
        for n in range(1, count + 1):
            high, wide, name = 12 + n, 20 - n, f"ADE_{short}_{n:08d}"
            save(place / "images" / split / f"{name}.jpg", picture(n, high, wide))
            mask = ids(n, 150, high, wide)
            mask[0, :3] = 0, 1, 150
            save(place / "annotations" / split / f"{name}.png", mask)
            written[f"images/{split}/{name}.jpg"] = mask
    rows = [f"{n} \t0.{n:04d}\t{n}\t{n}\tthing {n}, also {n} " for n in range(1, 151)]
    text(place / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tName", *rows)
    text(place / "sceneCategories.txt", "ADE_train_00000001 airport_terminal")
    return written


def cityscapes(root: Path) -> dict[str, np.ndarray]:
    written = {}
    for split, city, count in (("train", "aachen", 2), ("train", "bochum", 1), ("val", "munster", 2), ("test", "berlin", 1)):
        for n in range(count):
            stem, mask = f"{city}_{n:06d}_000019", ids(n + len(city), 33, 16, 32)
            mask[0, :4] = 0, 7, 33, 29
            image = save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", picture(n, 16, 32))
            save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", mask)
            save(root / "gtFine" / split / city / f"{stem}_gtFine_color.png", picture(n, 16, 32))
            written[image.relative_to(root).as_posix()] = mask
    return written


def palette_mask(path: Path, mask: np.ndarray) -> Path:
    """A PNG whose palette holds VOC's colours in the places that masks name."""
    image = Image.fromarray(mask).convert("L")
    image = Image.frombytes("P", image.size, mask.tobytes())
    image.putpalette([value for n in range(256) for value in (n * 37 % 256, n * 59 % 256, n * 83 % 256)])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def xml(name: str, wide: int, high: int, objects: list[tuple[str, tuple[float, ...], int]]) -> str:
    """An annotation: objects are (name, (xmin, ymin, xmax, ymax), difficult)."""
    parts = [f"<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename>"]
    parts += [f"<size><width>{wide}</width><height>{high}</height><depth>3</depth></size><segmented>1</segmented>"]
    for kind, (x1, y1, x2, y2), difficult in objects:
        box = f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        parts += [f"<object><name>{kind}</name><pose>Left</pose><difficult>{difficult}</difficult>{box}{part}</object>"]
    return "".join([*parts, "</annotation>"])


def voc(root: Path, year: int = 2012) -> dict[str, Any]:
    """Three images to train on and two to test; the first has a difficult object, the last none at all."""
    place = root / "VOCdevkit" / f"VOC{year}"
    lists = {"train": 3, "val": 2} if year == 2012 else {"train": 1, "val": 1, "test": 2}
    masks, objects, number = {}, {}, 0
    for split, count in lists.items():
        names = []
        for _ in range(count):
            number += 1
            name, high, wide = f"{year}_{number:06d}", 20 + number, 30 - number
            save(place / "JPEGImages" / f"{name}.jpg", picture(number, high, wide))
            masks[name] = ids(number, 20, high, wide)
            masks[name][0, 0] = 255
            palette_mask(place / "SegmentationClass" / f"{name}.png", masks[name])
            objects[name] = [("dog", (1, 1, wide, high), 0), ("person", (3, 4, 10, 12), int(number == 1))]
            if number == 5:
                objects[name] = []
            text(place / "Annotations" / f"{name}.xml", xml(name, wide, high, objects[name]))
            names.append(name)
        text(place / "ImageSets" / "Segmentation" / f"{split}.txt", *names)
        text(place / "ImageSets" / "Main" / f"{split}.txt", *names)
        text(place / "ImageSets" / "Main" / f"dog_{split}.txt", *(f"{name}  1" for name in names))
    return {"masks": masks, "objects": objects}


# Boxes


def coco(root: Path) -> dict[str, Any]:
    """Category ids with gaps; in train2017 a crowd, a box that leaves its image and an image without any."""
    written = {}
    categories = [
        {"id": n, "name": name, "supercategory": "x"} for n, name in ((90, "toothbrush"), (1, "person"), (3, "car"))
    ]
    for split, count in (("train", 3), ("val", 2)):
        images = [{"id": 100 + n, "file_name": f"{n:012d}.jpg", "height": 20 + n, "width": 30 - n} for n in range(count)]
        for n, image in enumerate(images):
            save(root / f"{split}2017" / image["file_name"], picture(n, image["height"], image["width"]))
        found = [(100, 90, [1.5, 2.0, 10.0, 8.0], 0), (101, 1, [20.0, 5.0, 30.0, 6.0], 0), (100, 3, [0, 0, 3, 4], 0)]
        if split == "train":
            found += [(100, 1, [0, 0, 30, 20], 1), (101, 1, [2.0, 2.0, 0.0, 5.0], 0)]
        annotations = [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            | {
                "segmentation": {"counts": [3, 4], "size": [20, 30]}
                if crowd
                else [[1.5, 2.0, 3, 4, 5, 6], [1, 1, 2, 2, 3, 3]]
            }
            for n, (i, c, box, crowd) in enumerate(found)
        ]
        written[split] = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        text(root / "annotations" / f"instances_{split}2017.json", json.dumps(written[split]))
        text(root / "annotations" / f"captions_{split}2017.json", "{}")
    return written


def penn_fudan(root: Path, count: int = 6) -> dict[str, np.ndarray]:
    place, written = root / "PennFudanPed", {}
    for n in range(1, count + 1):
        high, wide, name = 20 + n, 24, f"FudanPed{n:05d}"
        people = np.zeros((high, wide), np.uint8)
        people[2:10, 3:8], people[5:18, 12 : 12 + n] = 1, 2
        save(place / "PNGImages" / f"{name}.png", picture(n, high, wide))
        save(place / "PedMasks" / f"{name}_mask.png", people)
        text(place / "Annotation" / f"{name}.txt", "# Compatible with PASCAL Annotation Version 1.00")
        written[f"PNGImages/{name}.png"] = people
    return written


# Classes


def tiny_imagenet(root: Path) -> None:
    place = root / "tiny-imagenet-200"
    text(place / "wnids.txt", *reversed(WNIDS))
    text(
        place / "words.txt",
        f"{WNIDS[0]}\ttench, Tinca tinca",
        f"{WNIDS[1]}\tgoldfish, Carassius auratus",
        "n00000001\tthing",
    )
    for label, wnid in enumerate(WNIDS):
        for n in range(2):
            save(place / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", picture(10 * label + n, 64, 64))
        text(place / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t62\t63")
    for n in range(3):
        save(place / "val" / "images" / f"val_{n}.JPEG", picture(50 + n, 64, 64))
    rows = [f"val_{n}.JPEG\t{wnid}\t0\t32\t44\t62" for n, wnid in enumerate((WNIDS[2], WNIDS[0], WNIDS[2]))]
    text(place / "val" / "val_annotations.txt", *rows)
    save(place / "test" / "images" / "test_0.JPEG", picture(60, 64, 64))


def imagenet(root: Path, layout: str = "folders") -> list[int]:
    """`folders`, `solution` (Kaggle), `devkit` or `parquet`; answers the labels of val in its files' order."""
    truth = [WNIDS[2], WNIDS[0], WNIDS[1], WNIDS[0]]
    places = dict(zip(WNIDS, (0, 1, imagenet_label(WNIDS[2])), strict=True))
    base = root / "ILSVRC" / "Data" / "CLS-LOC" if layout == "solution" else root
    if layout == "parquet":
        parquet(root / "data" / "train-00000-of-00002.parquet", [(picture(n, 20, 24), n % 2) for n in range(3)], 1000)
        parquet(root / "data" / "train-00001-of-00002.parquet", [(picture(9, 20, 24), 5)], 1000)
        parquet(
            root / "data" / "validation-00000-of-00001.parquet",
            [(picture(n, 20, 24), places[w]) for n, w in enumerate(truth)],
            1000,
        )
        parquet(root / "data" / "test-00000-of-00001.parquet", [(picture(3, 20, 24), -1)], 1000)
        return [places[wnid] for wnid in truth]
    for label, wnid in enumerate(WNIDS):
        for n in range(2):
            save(base / "train" / wnid / f"{wnid}_{n}.JPEG", picture(10 * label + n, 20 + n, 24))
    for n, wnid in enumerate(truth, 1):
        name = f"ILSVRC2012_val_{n:08d}"
        save(base / "val" / (wnid if layout == "folders" else "") / f"{name}.JPEG", picture(50 + n, 22, 24))
    rows = [f"ILSVRC2012_val_{n:08d},{wnid} 85 1 499 272 {wnid} 1 2 3 4" for n, wnid in enumerate(truth, 1)]
    if layout == "solution":
        text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *reversed(rows))
    if layout == "devkit":
        from scipy.io import savemat

        numbers = {WNIDS[0]: 449, WNIDS[1]: 450, WNIDS[2]: 7}
        fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
        synsets = np.zeros((len(numbers) + 1, 1), dtype=fields)
        for n, (wnid, number) in enumerate([*numbers.items(), ("n00001740", 1001)]):
            synsets[n, 0] = (number, wnid, "some, words", "what it is", 0 if number <= 1000 else 3)
        devkit = root / "ILSVRC2012_devkit_t12" / "data"
        text(devkit / "ILSVRC2012_validation_ground_truth.txt", *(str(numbers[wnid]) for wnid in truth))
        savemat(str(devkit / "meta.mat"), {"synsets": synsets})
    ordered = sorted(truth) if layout == "folders" else truth
    return [places[wnid] for wnid in ordered]


def imagenet_label(wnid: str) -> int:
    """The label of a WordNet id, by the list that timm carries."""
    import timm

    listed = Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt"
    return listed.read_text().split().index(wnid)


def parquet(
    path: Path,
    rows: list[tuple[np.ndarray, int]],
    classes: int = 0,
    group: int = 2,
    image: str = "image",
    extra: dict[str, list[bytes]] | None = None,
) -> Path:
    """A shard as Hugging Face's `datasets` writes it: image structs, and the features noted in the schema.

    extra: further columns of images, as the bytes of their files.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    files = {image: [encoded(array, "JPEG") for array, _ in rows], **(extra or {})}
    features: dict[str, Any] = {name: {"_type": "Image"} for name in files}
    features["label"] = {"dtype": "int64", "_type": "Value"}
    if classes:
        features["label"] = {"names": [f"class {n}" for n in range(classes)], "_type": "ClassLabel"}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {}
    for name, found in files.items():
        columns[name] = pa.array([{"bytes": raw, "path": f"{n}.jpg"} for n, raw in enumerate(found)], struct)
    table = pa.table({**columns, "label": pa.array([label for _, label in rows], pa.int64())})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


# Depth


def nyuv2(root: Path, count: int = 3, test: tuple[int, ...] = (2,), high: int = 12, wide: int = 16) -> dict[str, np.ndarray]:
    """The labelled .mat: HDF5 with MATLAB's axes, [N, 3, W, H] and [N, W, H]. Answers images [N, H, W, 3], depths, rawDepths."""
    import h5py

    images = np.stack([picture(n, high, wide) for n in range(count)])
    depths = np.random.default_rng(0).uniform(0.7, 9.9, (count, high, wide)).astype(np.float32)
    raw = np.where(np.arange(wide) < 3, np.float32(0), depths)
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        file["images"], file["depths"], file["rawDepths"] = (
            images.transpose(0, 3, 2, 1),
            depths.transpose(0, 2, 1),
            raw.transpose(0, 2, 1),
        )
        file["labels"] = np.zeros((count, wide, high), np.uint16)
    text(root / "test.txt", *map(str, test))
    return {"images": images, "depths": depths, "rawDepths": raw}


def nyu_frames(root: Path, high: int = 12, wide: int = 16) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """FastDepth's layout: a frame a file, rgb [3, H, W] and depth [H, W]."""
    import h5py

    written = {}
    for seed, name in enumerate(("train/bathroom_0001/00001", "train/study_0002/00011", "val/official/00001")):
        image, depth = picture(seed, high, wide), np.full((high, wide), 1.0 + seed, np.float32)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["rgb"], file["depth"] = image.transpose(2, 0, 1), depth
        written[f"{name}.h5"] = image, depth
    return written


# Clips


def clip(path: Path, seed: int, count: int = 6) -> np.ndarray:
    """A video of one picture that grows darker, MPEG-4 in AVI as both sets have it; answers the picture."""
    import av

    image = picture(seed, 48, 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 48, 64, "yuv420p", 4_000_000
        for number in range(count):
            frame = (image * (1 - 0.1 * number)).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return image


def ucf101(root: Path) -> dict[str, np.ndarray]:
    """Three classes of two groups to train on and one to test; one class is written otherwise in its clips' names, as there."""
    written, train, test = {}, [], []
    names = {"ApplyEyeMakeup": "ApplyEyeMakeup", "HandstandPushups": "HandStandPushups", "YoYo": "YoYo"}
    for number, (label, inner) in enumerate(names.items(), 1):
        for group in (1, 8, 9):
            name = f"{label}/v_{inner}_g{group:02d}_c01.avi"
            written[f"UCF-101/{name}"] = clip(root / "UCF-101" / name, 10 * number + group)
            (test if group == 1 else train).append(name if group == 1 else f"{name} {number}")
    lists = root / "ucfTrainTestlist"
    text(lists / "classInd.txt", *(f"{number} {label}" for number, label in enumerate(names, 1)))
    text(lists / "trainlist01.txt", *train)
    text(lists / "testlist01.txt", *test)
    text(lists / "trainlist02.txt", *(f"{name} {list(names).index(name.split('/')[0]) + 1}" for name in test))
    text(lists / "testlist02.txt", *(row.split()[0] for row in train))
    return written


def hmdb51(root: Path) -> dict[str, np.ndarray]:
    """Two classes with names such as people gave their films; one clip of each is in neither split."""
    written = {}
    for number, label in enumerate(("brush_hair", "wave")):
        rows = []
        for place, (stem, mark) in enumerate(
            (
                ("#20_Rhythm_clap_u_nm_np1_fr_goo_0", 1),
                ("April_09_f_cm_np1_ba_bad_0", 1),
                ("atrapame!_h_cm_np1_le_med_2", 2),
                ("left_out_f_cm_np1_ri_med_1", 0),
            )
        ):
            name = f"hmdb51_org/{label}/{stem}.avi"
            written[name] = clip(root / name, 20 * number + place)
            rows.append(f"{stem}.avi {mark} ")
        for fold in (1, 2, 3):
            text(root / "testTrainMulti_7030_splits" / f"{label}_test_split{fold}.txt", *rows)
    return written
