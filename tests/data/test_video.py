"""Clips, from file or renderer to bench: five dimensions throughout, and motion that no single frame reveals."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hardsight.core.errors import DataError, MissingDependency, ShapeError, SpecError, WeightsError
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.data import decode, open_data
from hardsight.data.base import Data, Images
from hardsight.data.decode import picker
from hardsight.data.feed import check_pixels, choose, load, pixels, stack
from hardsight.data.made.moving import MOTIONS, film, motions, moving, path
from hardsight.data.made.scene import labels
from hardsight.data.made.solids import SHAPES
from hardsight.data.views import View
from hardsight.encoders import load_encoder
from hardsight.measure.bench import _short
from hardsight.measure.evaluate import evaluate
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build, entries
from hardsight.store.cells import Store
from hardsight.tasks.base import System
from hardsight.training.engine.loop import TrainingRecipe, train
from tests.conftest import toy_card
from tests.end.test_bench import inside

FROZEN = "ec585e8a825a47871c4957a29dac701b"
SMALL = "moving(size=16, frames=4, train=48, test=24)"
ENCODERS = ("clips(tiny)", "clips(tiny, pool=joined, frames=4)", "small_clips(widths=[8, 16])", "tubelets")
ENCODERS = tuple(
    one.replace("tubelets", "small_clips(kind=tubelets, widths=[16, 16], frames=4, size=16)") for one in ENCODERS
)


@pytest.fixture(scope="module")
def data() -> Data:
    return open_data(SMALL)


@pytest.fixture(scope="module")
def some(data: Data) -> tuple[Tensor, Tensor]:
    """Six clips [6, 3, 4, 16, 16] in [0, 1], and their labels."""
    batch = load(data.split("test"), range(6))
    return pixels(batch.images, "cpu"), batch.target["label"]


@pytest.fixture(params=ENCODERS)
def system(request: pytest.FixtureRequest, data: Data) -> System:
    encoder, task = load_encoder(request.param), build("classify", "Task")
    head = task.head(encoder, data.card)
    rng = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng)
    return System(encoder, head.eval().requires_grad_(False), task)


# Synthetic clips


def test_the_pixels_are_frozen(data: Data) -> None:
    """Changing this number changes every result on synthetic clips: say so in the commit."""
    digest = hashlib.sha256()
    for name in ("train", "test"):
        _, clips, target = data.split(name).batch(range(16))
        digest.update(clips.numpy().tobytes() + target["label"].numpy().tobytes())
    assert digest.hexdigest()[:32] == FROZEN


def test_a_clip_is_the_same_in_any_company(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    part = data.split("train")
    assert isinstance(part, Images)
    ids, clips, target = part.batch([5, 40, 5])
    assert clips.shape == (3, 3, 4, 16, 16) and clips.dtype == torch.uint8
    assert ids[0] == ids[2] == "moving-0-train-000005"
    assert torch.equal(clips[0], clips[2])
    alone = part.sample(40)
    assert torch.equal(alone.image, clips[1]) and alone.target["label"] == target["label"][1]
    assert np.array_equal(film(0, 0, np.array([40]), 4, 16)[0], clips[1].numpy())
    assert torch.equal(pickle.loads(pickle.dumps(part)).sample(40).image, clips[1])
    monkeypatch.setattr("hardsight.data.made.moving.MEMORY", 0)
    assert torch.equal(open_data(SMALL).split("train").batch([40, 5])[1], clips[[1, 0]])
    alone.image.zero_()
    assert part.sample(40).image.any()
    assert not torch.equal(part.sample(3).image, data.split("test").sample(3).image)


def test_more_frames_are_the_same_motion() -> None:
    few, many = (film(0, 0, np.arange(8), frames, 16) for frames in (3, 5))
    assert np.array_equal(few, many[:, :, ::2])


def test_each_motion_equally_often_and_visible(data: Data) -> None:
    drawn = motions(3, 0, np.arange(80))
    assert all(sorted(run) == list(range(8)) for run in drawn.reshape(10, 8).tolist())
    _, clips, target = data.split("train").batch(range(48))
    change = (clips[:, :, 1:].float() - clips[:, :, :-1].float()).abs().flatten(1).mean(1)
    still = target["label"] == list(MOTIONS).index("still")
    assert not change[still].any()
    assert (change[~still] > 0.5).all()


def test_shapes_are_labels_too(data: Data) -> None:
    same = open_data("moving(size=16, frames=4, train=48, test=24, label=shape)")
    assert same.card.classes == ("cube", "pyramid", "octahedron", "prism", "cross", "steps")
    _, clips, target = same.split("train").batch(range(48))
    assert torch.equal(clips, data.split("train").batch(range(48))[1])
    assert all(sorted(run) == list(range(6)) for run in target["label"].reshape(8, 6).tolist())
    solids = labels(0, 0, np.arange(96))
    known = [solid for solid in solids if SHAPES[solid] in same.card.classes]
    assert [same.card.classes[one] for one in target["label"]] == [SHAPES[solid] for solid in known]


def test_one_frame_does_not_show_the_motion_but_two_do() -> None:
    """The state in any single frame is uniform for every motion, and a frame depends only on that state and the scene."""
    places = np.arange(16000)
    spot, frames = path(0, 0, places, 5)
    label = motions(0, 0, places)
    for motion in range(8):
        for moment in range(frames):
            sample = np.sort(spot[label == motion, moment], axis=0)
            gap = np.abs(sample - np.linspace(0, 1, len(sample))[:, None]).max(0)
            assert (gap < 1.95 / np.sqrt(len(sample))).all(), "Kolmogorov-Smirnov, p = 0.001"
    step = spot[:, 1] - spot[:, 0]
    step -= np.round(step)
    found = np.array(
        [
            list(MOTIONS.values()).index(tuple(np.sign(one) * [1, 1, 1, abs(np.sign(one[3]))])) if not one[3] else 7
            for one in step
        ]
    )
    assert np.array_equal(found, label)
    first, backwards = spot[label == 2].reshape(-1, 4), spot[label == 1, ::-1].reshape(-1, 4)
    assert np.abs(np.sort(first[:, 0]) - np.sort(backwards[:, 0])).max() < 0.05


def test_one_frame_is_near_chance_and_the_clip_is_not() -> None:
    """Ridge regression on the pixels of one frame is at chance; on differences of shifted neighbouring frames it is not."""
    data = moving(size=16, frames=4, train=1200, test=400)
    (x, y), (x_test, y_test) = (
        (batch[1].float() / 255, batch[2]["label"])
        for batch in (data.split("train").batch(range(1200)), data.split("test").batch(range(400)))
    )

    def accuracy(features: Callable[[Tensor], Tensor]) -> float:
        one, two = features(x), features(x_test)
        mean, scale = one.mean(0), one.std(0) + 1e-6
        one, two = (one - mean) / scale, (two - mean) / scale
        hot = nn.functional.one_hot(y, 8).float() - 1 / 8
        weights = torch.linalg.solve(one.T @ one + 300 * torch.eye(one.shape[1]), one.T @ hot)
        return float(((two @ weights).argmax(1) == y_test).float().mean())

    def shifts(x: Tensor) -> Tensor:
        grey = x.mean(1)
        before, after = grey[:, :-1], grey[:, 1:]
        return torch.stack(
            [
                (before - after.roll((down, right), (2, 3))).abs()[..., 4:-4, 4:-4].mean((2, 3)).mean(1)
                for down in range(-4, 5)
                for right in range(-4, 5)
            ],
            1,
        ).log1p()

    for frame in (0, 2):
        assert accuracy(lambda x, frame=frame: x[:, :, frame].flatten(1)) < 0.125 + 3 * 0.0166
    assert accuracy(shifts) > 0.4


@pytest.mark.parametrize("wrong", ["size=8", "frames=1", "train=0", "test=-1"])
def test_wrong_arguments_of_moving(wrong: str) -> None:
    with pytest.raises(DataError, match=f"moving: {wrong.split('=')[0]} is"):
        build(f"moving({wrong})")


# Reading


def frames_of(clip: np.ndarray) -> np.ndarray:
    """The frame numbers in a clip whose frames have a grey value of ten times their number."""
    return np.round(clip.astype(float).mean((1, 2, 3)) / 10).astype(int)


@pytest.mark.parametrize(
    ("count", "frames", "stride", "wanted"),
    [
        (8, 4, None, [1, 3, 5, 7]),
        (10, 4, None, [1, 3, 6, 8]),
        (3, 5, None, [0, 0, 1, 2, 2]),
        (10, 4, 2, [1, 3, 5, 7]),
        (9, 3, 1, [3, 4, 5]),
        (4, 4, 2, [0, 2, 3, 3]),
        (1, 3, 4, [0, 0, 0]),
    ],
)
def test_which_frames(count: int, frames: int, stride: int | None, wanted: list[int]) -> None:
    assert picker(frames, stride)(count) == wanted


def write_video(file: Path, count: int, size: tuple[int, int] = (32, 48)) -> None:
    av = pytest.importorskip("av")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for number in range(count):
            picture = np.full((*size, 3), 10 * number, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((32, 48, 3), 10 * number, dtype=np.uint8)).save(folder / f"f{number}.png")


@pytest.fixture
def clips_folder(tmp_path: Path) -> Path:
    for name in ("wave/a", "wave/b", "jump/c", "jump/d"):
        write_video(tmp_path / "clips" / f"{name}.avi", 12)
    return tmp_path / "clips"


def test_videos_in_class_folders(clips_folder: Path) -> None:
    data = open_data(f"video:{clips_folder}(frames=4, size=16, test=0.5)")
    assert data.card.classes == ("jump", "wave") and data.card.frames == 4 and data.card.size == (16, 16)
    train, test = data.split("train"), data.split("test")
    assert len(train) == len(test) == 2
    batch = load(test, choose(test, None))
    assert batch.images.shape == (2, 3, 4, 16, 16)
    assert frames_of(batch.images[0].permute(1, 2, 3, 0).numpy()).tolist() == [1, 4, 7, 10]
    assert sorted(batch.target["label"].tolist()) == [0, 1]
    dense = open_data(f"video:{clips_folder}(frames=4, stride=4, size=16)").split("train").sample(0)
    assert frames_of(dense.image.permute(1, 2, 3, 0).numpy()).tolist() == [0, 4, 8, 11]


def test_frames_as_files(tmp_path: Path) -> None:
    for name in ("train/x/1", "train/x/2", "train/y/3", "test/x/4", "test/y/5"):
        write_frames(tmp_path / name, 12)
    data = open_data(f"video:{tmp_path}(frames=4, size=16)")
    assert [len(data.split(name)) for name in ("train", "test")] == [3, 2]
    sample = data.split("test").sample(0)
    assert sample.id == "test/x/4"
    assert frames_of(sample.image.permute(1, 2, 3, 0).numpy()).tolist() == [1, 4, 7, 10], "f10 comes after f9"
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "train/x/1/f4.png")
    with pytest.raises(DataError, match="f4.png is 16x16 pixels but .*f1.png is 48x32"):
        decode.read_frames([tmp_path / f"train/x/1/f{n}.png" for n in range(12)], picker(4, None), None)


def test_split_lists_of_ucf101_and_hmdb51(clips_folder: Path) -> None:
    lists = clips_folder / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 wave\n2 jump\n")
    (lists / "trainlist01.txt").write_text("wave/a.avi 1\njump/c.avi 2\n\n")
    (lists / "testlist01.txt").write_text("wave/b.avi\njump/d.avi\n")
    data = open_data(f"video:{clips_folder}(size=16)")
    assert data.card.classes == ("wave", "jump")
    assert [data.split("test").sample(n).id for n in (0, 1)] == ["wave/b.avi", "jump/d.avi"]
    assert [int(data.split("test").sample(n).target["label"]) for n in (0, 1)] == [0, 1]
    with pytest.raises(DataError, match="none of fold 2"):
        open_data(f"video:{clips_folder}(fold=2)")
    (lists / "testlist01.txt").write_text("wave/b.avi\nwave/lost.avi\n")
    with pytest.raises(DataError, match="testlist01.txt, line 2: no such clip wave/lost.avi"):
        open_data(f"video:{clips_folder}")
    for file in lists.iterdir():
        file.unlink()
    (lists / "wave_test_split1.txt").write_text("a.avi 1 \nb.avi 2\n")
    (lists / "jump_test_split1.txt").write_text("c.avi 2 \nd.avi 0 \n")
    data = open_data(f"video:{clips_folder}(size=16)")
    assert data.card.classes == ("jump", "wave")
    assert [len(data.split(name)) for name in ("train", "test")] == [1, 2]


def test_invalid_clips_are_reported(clips_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = clips_folder / "wave" / "a.avi"
    content = whole.read_bytes()
    data = open_data(f"video:{clips_folder}(frames=4, size=16, test=0)")
    place = data.split("train").ids.index("wave/a.avi")  # type: ignore[attr-defined]
    for broken in (b"", b"no video at all", content[: len(content) // 3]):
        whole.write_bytes(broken)
        with pytest.raises(DataError, match="a.avi") as caught:
            data.split("train").sample(place)
        assert "\n" not in str(caught.value)
    skipped: list[str] = []
    assert len(load(data.split("train"), range(4), "skip", skipped).ids) == 3
    assert "a.avi" in skipped[0]
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingDependency, match=r"hardsight\[data\]"):
        open_data(f"video:{clips_folder}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("frames=0", "at least 1"), ("stride=0", "at least 1"), ("size=0", "size=0"), ("test=2.0", "test=2")],
)
def test_wrong_arguments_of_video(clips_folder: Path, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(f"video({str(clips_folder)!r}, {spec})")


def test_folders_without_clips(tmp_path: Path, clips_folder: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match="contains no clip"):
        open_data(f"video:{tmp_path / 'none'}")
    write_frames(clips_folder / "jump" / "e", 2)
    with pytest.raises(DataError, match="both videos"):
        open_data(f"video:{clips_folder}")


def test_real_clips(real_data: Path) -> None:
    """Decode, sample and attack without labels: the embedding changes, with a perturbation within eps."""
    data = open_data(f"video:{real_data / 'video'}(frames=8, size=64)")
    part = data.split("test")
    assert len(part) == 3 and not data.card.classes
    batch = load(part, range(3))
    assert batch.images.shape == (3, 3, 8, 64, 64)
    assert batch.images.float().std() > 20
    assert (batch.images[:, :, 0] != batch.images[:, :, -1]).any()
    x = pixels(batch.images, "cpu")
    encoder = load_encoder("small_clips(widths=[8, 16])")
    system = System(encoder, nn.Identity(), build("classify", "Task"))
    threat = build("linf(4/255)", "Threat")
    found = build("embed(steps=3)", "Attack")(system, x, None, threat, torch.Generator().manual_seed(0))
    assert (threat.size(found.x_adv - x) <= 4 / 255 + 1e-6).all()
    noise = threat.surface(x, torch.Generator().manual_seed(1))
    here = encoder(x).pooled
    assert ((encoder(found.x_adv).pooled - here).norm(dim=1) > 2 * (encoder(noise).pooled - here).norm(dim=1)).all()


# Encoders


def test_features_of_clips(system: System, some: tuple[Tensor, Tensor]) -> None:
    encoder, (x, _) = system.encoder, some
    found = encoder(x)
    assert found.pooled.shape == (6, encoder.card.dim)
    assert found.dense is not None and found.dense.shape[1] == encoder.card.dense_dim
    assert found.size == (16, 16)
    assert round(found.covered[1] / found.dense.shape[-1]) == encoder.card.stride
    assert torch.allclose(encoder(x[2:3]).pooled, found.pooled[2:3], atol=1e-5)
    with pytest.raises(ShapeError, match="reads clips"):
        encoder(x[:, :, 0])


def test_an_image_encoder_frame_by_frame(some: tuple[Tensor, Tensor]) -> None:
    x, _ = some
    image, mean, joined = (load_encoder(s) for s in ("tiny", "clips(tiny)", "clips(tiny, pool=joined, frames=4)"))
    by_hand = torch.stack([image(x[:, :, t]).pooled for t in range(4)], 1)
    assert torch.allclose(mean(x).pooled, by_hand.mean(1), atol=1e-6)
    assert torch.allclose(joined(x).pooled, by_hand.flatten(1), atol=1e-6)
    assert torch.allclose(mean(x.flip(2)).pooled, mean(x).pooled, atol=1e-6), "it cannot distinguish a clip from its reverse"
    for spec in ENCODERS[1:]:
        encoder = load_encoder(spec)
        assert (encoder(x.flip(2)).pooled - encoder(x).pooled).abs().max() > 1e-3
    own = load_encoder("clips(tiny(classes=5))")
    frames = torch.stack(
        [load_encoder("tiny(classes=5)").classify(load_encoder("tiny(classes=5)")(x[:, :, t])) for t in range(4)]
    )
    assert own.card.classes == 5
    assert torch.allclose(own.classify(own(x)), frames.mean(0), atol=1e-6)
    with pytest.raises(ShapeError, match="clips of 4 frames, and these have 2"):
        joined(x[:, :, :2])


def test_every_frame_has_a_gradient(system: System, some: tuple[Tensor, Tensor]) -> None:
    x = some[0].clone().requires_grad_(True)
    system.encoder(x).pooled.square().sum().backward()
    assert (x.grad.abs().amax((1, 3, 4)) > 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clips(tiny, pool=joined)", "needs frames="),
        ("clips(tiny, frames=4)", "'mean' has none"),
        ("small_clips(widths=[])", "channels per stage"),
        ("small_clips(kind=tubelets, widths=[16, 32])", "share one width"),
        ("small_clips(kind=tubelets, widths=[16], size=20)", "tubelets are"),
        ("tv_clips:r2plus1d_81", "did you mean 'r2plus1d_18'"),
        ("tv_clips:r2plus1d_18(weights='KINETICS')", "no weights 'KINETICS'"),
        ("hf_clips:/nowhere", "is no folder"),
        ("small_clips(weights='/nowhere.safetensors')", "no file"),
    ],
)
def test_encoders_that_cannot_be(spec: str, message: str) -> None:
    with pytest.raises((SpecError, WeightsError)) as caught:
        load_encoder(spec)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [("mc3_18", (4, 32, 32)), ("r2plus1d_18", (4, 32, 32)), ("s3d", (14, 224, 224)), ("swin3d_t", (2, 32, 32))],
)
def test_torchvisions_networks_answer_as_torchvision_does(name: str, shape: tuple[int, int, int]) -> None:
    from torchvision import models

    encoder = load_encoder(f"tv_clips:{name}(weights=None, seed=3)")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = models.get_model(name, weights=None).eval()
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    transform = models.get_model_weights(name).DEFAULT.transforms()
    assert encoder.card.mean == tuple(transform.mean) and encoder.card.std == tuple(transform.std)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1, 1) for one in (transform.mean, transform.std))
    with torch.no_grad():
        found = encoder(x)
        assert torch.allclose(encoder.classify(found), model((x - mean) / std), atol=1e-4)
    assert found.pooled.shape == (1, encoder.card.dim) and encoder.card.classes == 400
    with pytest.raises(SpecError, match="takes|needs at least|cannot take"):
        load_encoder("tv_clips:s3d(weights=None)")(x[:, :, :, :32, :32])


CONFIGS = {
    "videomae": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_frames": 4},
    "vjepa2": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 16, "patch_size": 8, "frames_per_clip": 4, "pred_hidden_size": 12, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1, "num_pooler_layers": 1, "mlp_ratio": 2.0},
    "timesformer": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8, "num_frames": 4},
}  # fmt: skip


@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_transformers_answer_as_transformers_do(family: str, tuned: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, num_labels=5, **CONFIGS[family])
    kind = transformers.AutoModelForVideoClassification if tuned else transformers.AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]})
    )
    encoder = load_encoder(f"hf_clips:{tmp_path}")
    assert encoder.card.mean == (0.1, 0.2, 0.3)
    assert (encoder.card.classes, encoder.card.dim, encoder.card.size) == (5 if tuned else 0, 24, 16)
    x = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    normal = (x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(1, 3, 1, 1, 1)
    with torch.no_grad():
        found, expected = encoder(x), model(normal.transpose(1, 2))
    assert found.pooled.shape == (2, 24)
    if tuned:
        assert torch.allclose(encoder.classify(found), expected.logits, atol=1e-5)
    else:
        tokens = expected.last_hidden_state
        assert torch.allclose(found.pooled, tokens[:, 0] if family == "timesformer" else tokens.mean(1), atol=1e-5)
    if family == "timesformer":
        assert found.dense is None
    else:
        assert found.dense.shape == (2, 24, 2, 2)
    if not tuned and family != "timesformer":
        assert torch.allclose(found.dense.mean((2, 3)), found.pooled, atol=1e-5)
    with pytest.raises(ShapeError, match="frames"):
        encoder(x[:, :, :3])
    with pytest.raises(SpecError, match="16x16"):
        encoder(torch.rand(1, 3, 4, 32, 32))
    assert load_encoder(f"hf_clips:{tmp_path}(resize=16)")(torch.rand(1, 3, 4, 32, 32)).pooled.shape == (1, 24)


def test_other_models_of_transformers_are_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.AutoConfig.for_model("vivit").save_pretrained(tmp_path)
    with pytest.raises(SpecError, match="vivit"):
        load_encoder(f"hf_clips:{tmp_path}(pretrained=False)")


# Five dimensions throughout


def test_what_is_no_batch_of_clips() -> None:
    check_pixels(torch.rand(2, 3, 4, 8, 8))
    for shape in ((2, 1, 4, 8, 8), (2, 3, 2, 4, 8, 8), (3, 8, 8)):
        with pytest.raises(DataError, match=r"\[B, 3, T, H, W\]"):
            check_pixels(torch.rand(*shape))
    clip = open_data(SMALL).split("test").sample(0)
    with pytest.raises(DataError, match="one size"):
        stack([clip, clip._replace(image=clip.image[:, :3])])


def test_a_clips_views_move_as_one(some: tuple[Tensor, Tensor]) -> None:
    x, _ = some
    views = View(scale=(0.5, 1.0), jitter=0.4, hue=0.1, grey=0.2)
    still = x[:, :, :1].expand(-1, -1, 4, -1, -1)
    found = views(still, When(torch.Generator().manual_seed(0)))
    assert found.shape == x.shape
    assert torch.equal(found[:, :, 0], found[:, :, 3]), "all frames share one draw"
    assert torch.allclose(found[:, :, 0], views(x[:, :, 0], When(torch.Generator().manual_seed(0))), atol=1e-6)
    assert not torch.equal(found[0], found[1])


THREATS = ["linf(8/255)", "l2(1.0)", "l1(20)"]
THREATS += [spec for name, spec in (("per_frame", "per_frame(l2(0.5))"), ("flicker", "flicker(8/255)")) if name in entries()]


@pytest.mark.parametrize("spec", THREATS)
def test_attacks_on_clips_raise_the_loss_within_the_threat(system: System, some: tuple[Tensor, Tensor], spec: str) -> None:
    x, _ = some
    y = system.output(x).argmax(1)
    threat = build(spec, "Threat")
    clean, _ = evaluate(system, build("clean", "Attack"), threat, x, y, ["i"] * 6)
    rows, seen = evaluate(
        system, build("pgd(5)", "Attack"), threat, x, y, ["i"] * 6, torch.Generator().manual_seed(0), gallery=2
    )
    assert (rows["size"] <= threat.eps * (1 + 1e-4)).all() and (rows["size"] > 0.1 * threat.eps).all()
    assert not clean["error"].any()
    found = build("pgd(5)", "Attack")(system, x, y, threat, torch.Generator().manual_seed(0))
    noise = threat.surface(x, torch.Generator().manual_seed(1))
    assert system.task.loss(system.output(found.x_adv), y).mean() > system.task.loss(system.output(noise), y).mean()
    assert seen is not None
    assert seen["image"].shape == (2, 16, 64, 3), "the four frames side by side"
    assert np.array_equal(seen["image"][1][:, 16:32], (x[1, :, 1] * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("text", ["pgd(3)", "embed(steps=3)", "classpgd(steps=3)", "restarts(pgd(2), 2)"])
def test_zero_radius_is_clean(system: System, some: tuple[Tensor, Tensor], text: str) -> None:
    x, y = some
    nothing = build("linf(0)", "Threat")
    clean, _ = evaluate(system, build("clean", "Attack"), nothing, x, y, ["i"] * 6)
    rows, _ = evaluate(system, build(text, "Attack"), nothing, x, y, ["i"] * 6, torch.Generator().manual_seed(0))
    for key in ("error", "size", "counts.hits"):
        assert np.array_equal(clean[key], rows[key])


def test_clips_do_not_depend_on_one_another(system: System, some: tuple[Tensor, Tensor]) -> None:
    x, y = some
    attack, threat = build("pgd(3, start='clean')", "Attack"), build("linf(4/255)", "Threat")
    whole = attack(system, x, y, threat).x_adv
    alone = torch.cat([attack(system, x[i : i + 1], y[i : i + 1], threat).x_adv for i in range(6)])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_masks_are_not_for_clips(data: Data) -> None:
    with pytest.raises(DataError, match="needs data with a mask"):
        build("segment", "Task").head(load_encoder("small_clips"), data.card)
    assert toy_card().frames == 0


# End to end


def test_a_probe_reads_few_clips_at_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """It embeds as many frames as it would images, so that memory does not grow with the length of a clip."""
    encoder, images, seen = load_encoder("small_clips(widths=[8, 16])"), data.split("train"), []
    whole = Bank(encoder, images, list(range(24)), dense=False)
    handle = encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr("hardsight.probes.bank.BATCH", 20)
    parts = Bank(encoder, images, list(range(24)), dense=True)
    handle.remove()
    assert seen == [5, 5, 5, 5, 4], "20 frames, clips of 4"
    everything = torch.arange(24)
    (one, target), (two, same) = (bank.batch(everything, False) for bank in (whole, parts))
    assert torch.allclose(one.pooled, two.pooled, atol=1e-6) and torch.equal(target["label"], same["label"])
    dense = parts.batch(everything, True)[0].dense
    assert dense is not None and dense.shape[:2] == (24, 16)


def test_bars_name_what_clips_are_made_of() -> None:
    assert _short("clips(file('/a/b/net.pth', arch='resnet20'), pool=joined, frames=8)") == "clips(net.pth)"
    assert _short("clips(tiny)") == "clips(tiny)" and _short("small_clips([8, 16])") == "small_clips"
    assert _short("zoo:made_simclr") == "made_simclr" and _short("tiny") == "tiny"


def test_a_small_network_trains_on_clips_and_loads_again(tmp_path: Path) -> None:
    encoder = "small_clips(widths=[8, 16])"
    recipe = TrainingRecipe(
        "clips",
        encoder,
        "supervised(views(1, scale=(0.9, 1.0), jitter=0.1, grey=0.0, flip=False))",
        SMALL,
        epochs=1,
        batch=16,
    )
    file = train(recipe, tmp_path, torch.device("cpu"), Watch(quiet=True))
    again = load_encoder(f"small_clips(widths=[8, 16], weights={str(file)!r})")
    assert again.card.sha256 != load_encoder(encoder).card.sha256
    system = fit_probe(again, "classify", SMALL, "probe(epochs=2)")
    assert system.output(torch.rand(2, 3, 4, 16, 16)).shape == (2, 8)
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_encoder(f"small_clips(widths=[8, 8], weights={str(file)!r})")


@pytest.mark.parametrize(("encoder", "norm"), [(ENCODERS[0], "linf"), (ENCODERS[2], "linf"), (ENCODERS[2], "flicker")])
def test_bench_measures_clips(tmp_path: Path, encoder: str, norm: str) -> None:
    words = ["bench", "--encoder", encoder, "--data", SMALL, "--task", "classify", "--count", "12", "--eps", "0,8/255"]
    words += ["--set", "probe=probe(epochs=5)", "--attack", "clean", "--attack", "embed(steps=3)", "--attack", "pgd(10)"]
    words += ["--norm", norm, "--set", "audit=0"]
    done = inside(*words, "--store", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    cells = {
        (cell.what["column"], cell.eps_text if hasattr(cell, "eps_text") else cell.what["eps_text"]): cell
        for cell in Store(tmp_path).cells()
    }
    assert len(cells) == 5
    clean = cells["clean", ""].rows()
    for (column, eps), cell in cells.items():
        rows = cell.rows()
        assert (rows["size"] <= cell.what["eps"] + 1e-6).all()
        if eps == "0":
            assert np.array_equal(rows["error"], clean["error"]), column
    assert cells["pgd(10)", "8/255"].rows()["error"].mean() >= clean["error"].mean()
    page = (tmp_path / "report.html").read_text()
    assert "data:image/webp" in page
    dry = inside(*words, "--store", str(tmp_path / "other"), "--dry-run")
    assert dry.returncode == 0 and "passes" in dry.stdout


def test_images_are_not_for_an_encoder_of_clips(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / "in" / "a.png")
    done = inside("attack", "--encoder", "small_clips", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "reads clips" in done.stderr and len(done.stderr.strip().splitlines()) == 1
