"""Dense cells go where the network read them, for every source of encoders and at sides that the stride doesn't divide.

Where a cell is read is found without the code that places it: the mean position of the columns of the image, weighted by how
much the cell changes when that column turns bright. A cell has to be placed within half a stride of it, and the distance
between the cells of a map has to be the network's own.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from hardsight.encoders import load_encoder
from hardsight.encoders.base import BodyOutput, Card, Encoder, Features
from hardsight.encoders.extents import Extent, Spacing, join, on_image
from hardsight.encoders.small import tiny
from hardsight.tasks.base import to_pixels
from hardsight.tasks.heads import on_grid
from hardsight.tasks.pyramid import FcosHead
from tests.fixtures.encoders import one_thread
from tests.fixtures.places import reading

__all__ = ["one_thread"]
HEIGHT, WIDTH, STEP = 64, 159, 4

SOURCES = {
    "timm:convnext_atto(pretrained=False)": [16, 48, 80, 112],
    "timm:test_resnet(pretrained=False)": [16, 48, 80, 112, 144],
    "timm:vit_tiny_patch16_224(pretrained=False, size=64)": list(range(8, 160, 16)),
    "tv:resnet18(weights=None)": [16, 48, 80, 112, 144],
    "tiny(layers=[-1])": list(range(8, 160, 16)),
}
LARGE = {
    "timm:vgg11(pretrained=False)": [16, 48, 80, 112],
    "tv:convnext_tiny(weights=None)": [16, 48, 80, 112],
    "tv:vgg11(weights=None)": [16, 48, 80, 112],
}
SAVED = {
    "file:{}(arch='convnext_atto')": "convnext_atto",
    "hub:{}:net(size=64)": "convnext_atto",
}


def columns(features: Features) -> list[float]:
    """The columns of the image at which the cells' centres are placed."""
    assert features.dense is not None
    wide, cells = features.covered[1], features.dense.shape[-1]
    return [features.origin[1] + (cell + 0.5) * wide / cells for cell in range(cells)]


@pytest.mark.parametrize("spec", [*SOURCES, *(pytest.param(spec, marks=pytest.mark.slow) for spec in LARGE)])
def test_cells_go_where_they_were_read(spec: str) -> None:
    """At width 159 the four cells of ConvNeXt and VGG are read at 16, 48, 80, 112 (before, they were put at 20 .. 139)."""
    lies_where_it_reads(load_encoder(spec), {**SOURCES, **LARGE}[spec])


@pytest.mark.parametrize("spec", SAVED)
def test_cells_of_files_and_repositories_go_where_they_were_read(spec: str, tmp_path: Path) -> None:
    import timm

    if spec.startswith("file"):
        place = tmp_path / "w.pt"
        torch.manual_seed(0)
        torch.save(timm.create_model("convnext_atto").state_dict(), place)
    else:
        place = tmp_path
        (tmp_path / "hubconf.py").write_text("def net():\n    import timm\n    return timm.create_model('convnext_atto')\n")
    lies_where_it_reads(load_encoder(spec.format(place)), [16, 48, 80, 112])


def lies_where_it_reads(encoder: Encoder, wanted: list[int]) -> None:
    placed = columns(encoder(torch.zeros(1, 3, HEIGHT, WIDTH)))
    assert placed == pytest.approx(wanted)
    read, stride = reading(encoder, HEIGHT, WIDTH, STEP), encoder.card.stride
    inner = range(1, len(placed) - 1)  # the outermost cells see the padding
    drift = [placed[cell] - read[cell] for cell in inner]
    assert max(map(abs, drift)) <= stride / 2 + STEP, (read, placed)
    assert max(drift) - min(drift) <= 1.5 * STEP, (read, placed)


def test_a_residual_network_reads_half_a_stride_before_the_centre_of_its_cells() -> None:
    """Convolutions of odd width with equal padding are centred on a cell's first pixel; `encoders.extents` says why."""
    encoder = tiny(layers=(-1,))
    placed, read = columns(encoder(torch.zeros(1, 3, 64, WIDTH))), reading(encoder, 64, WIDTH, STEP)
    assert [placed[cell] - read[cell] for cell in range(1, 9)] == pytest.approx([7.5] * 8, abs=1)


@pytest.mark.parametrize(
    ("side", "cells", "stride", "lead"),
    [
        (224, 7, 32, 0),
        (159, 4, 32, 0),  # rounded down
        (159, 5, 32, 0),  # rounded up
        (224, 4, 64, 0),  # LeViT: 14, 7, 4
        (224, 16, 14, 0),
        (518, 37, 14, 0),
        (299, 8, 32, 21.5),  # Inception: its first cell is read at 37.5
        (224, 6, 32, 16),  # AlexNet: at 31.5
        (331, 11, 32, 0),  # NASNet
        (32, 5, 8, 0),  # a CIFAR ResNet with padding 2
    ],
)
def test_the_spacing_of_known_networks(side: int, cells: int, stride: float, lead: float) -> None:
    assert Spacing.of(side, cells) == (stride, lead)


def test_a_map_that_ends_before_the_image_is_continued_and_not_stretched() -> None:
    """4 cells of 32 pixels on 159: cell 2 stays at 80, the last 31 columns repeat the last pixel."""
    grid = torch.zeros(1, 1, 2, 4)
    grid[..., 2] = 1
    pixels = on_image(grid, Extent((64, 128)), (64, 159))
    assert pixels.shape == (1, 1, 64, 159)
    assert pixels[0, 0, 0, 79] == pixels[0, 0, 0, 80] == pixels.max() > 0.98
    assert torch.equal(pixels[..., 127:], pixels[..., 127:128].expand(-1, -1, -1, 32))
    led = on_image(grid, Extent((64, 128), (0, 20)), (64, 159))
    assert torch.equal(led[..., 20:148], pixels[..., :128]) and torch.equal(
        led[..., :20], led[..., 20:21].expand(1, 1, 64, 20)
    )


def test_coarse_cells_join_a_finer_grid_at_their_own_places() -> None:
    """ConvNeXt at 159: 39 cells of 4 pixels and 4 of 32. The coarse cell 2, at column 80, meets the fine cell 19, at 78."""
    fine, coarse = torch.zeros(1, 1, 16, 39), torch.zeros(1, 1, 2, 4)
    coarse[..., 2] = 1
    joined = join((fine, coarse), (Extent((64, 156)), Extent((64, 128))))
    assert joined is not None and joined[1] == Extent((64, 156))
    row = joined[0][0, 1, 0]
    assert row[19] == row.max() and row[20] == pytest.approx(row[19])
    assert row[15] == pytest.approx(1 - (80 - 62) / 32, abs=1e-5) and (row[32:] == 0).all()


@pytest.mark.parametrize("sides", [(64, 159), (375, 500)])
def test_heads_upsample_from_where_the_cells_lie(sides: tuple[int, int]) -> None:
    """A head's borders at 375x500: the last one of ConvNeXt's cells lies at 480 - 32 = 448 (before, at 467)."""
    encoder = load_encoder("timm:convnext_atto(pretrained=False)")
    features = encoder(torch.rand(1, 3, *sides), (0, 3))
    assert features.dense is not None
    assert features.covered == (sides[0] // 32 * 32, sides[1] // 32 * 32)
    cells = torch.arange(features.dense.shape[-1], dtype=torch.float32).expand(1, 1, features.dense.shape[-2], -1)
    pixels = to_pixels(cells, features)[0, 0, 0]
    assert [float(pixels[32 * cell + 15 : 32 * cell + 17].mean()) for cell in range(cells.shape[-1])] == pytest.approx(
        list(range(cells.shape[-1])), abs=0.01
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(to_pixels(cells, features)[0, 0, 0], pixels, rtol=0, atol=1e-4)
    at = on_grid(features, (0, 3))
    assert at.dense is not None and at.covered == (sides[0] // 4 * 4, sides[1] // 4 * 4) and at.dense.shape[1] == 40 + 320
    places = FcosHead(320, 2, 8, 0, 1, 2).eval()(features)
    first = places.cells[: places.levels[0]]
    assert first[:, 2].max() == features.covered[1] and (first[0] == torch.tensor([0.0, 0, 16, 16])).all()


def test_an_encoder_without_spacings_covers_what_its_body_reads() -> None:
    class Four(nn.Module):
        depth, multiple = 1, 8

        def forward(self, pixels, layers):
            return BodyOutput(pixels.mean((2, 3)), (pixels[..., ::4, ::4],) * len(layers), None)

    encoder = Encoder(Four(), Card("four", "four", "test", dim=3, dense_dim=3, stride=4, size=16))
    assert encoder(torch.rand(1, 3, 13, 16)).extent == Extent((16, 16))
