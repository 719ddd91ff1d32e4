"""RobustBench's checkpoints: miniatures in the layouts of its zoo, against each network's computation written out again."""

import pytest
import torch
import torch.nn.functional as F

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.encoders.robustbench_models import CIFAR10, IMAGENET, LISTED, NONE
from hardsight.measure.stamps import fixes_weights, stamp
from tests.fixtures.encoders import agrees_with_card, differentiable, images, one_thread, saved

__all__ = ["one_thread", "saved"]
WIDTHS = (4, 8, 12, 16)


class Draw:
    """A state dict, filled while the reference network is laid out."""

    def __init__(self):
        self.rng, self.state = torch.Generator().manual_seed(3), {}

    def conv(self, name, before, after, side=3):
        self.state[f"{name}.weight"] = torch.randn(after, before, side, side, generator=self.rng) / (side * before**0.5)

    def norm(self, name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.{part}"] = torch.rand(channels, generator=self.rng) + (0.5 if part[-1] in "tr" else 0)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, inner, classes):
        self.state[f"{name}.weight"] = torch.randn(classes, inner, generator=self.rng)
        self.state[f"{name}.bias"] = torch.randn(classes, generator=self.rng)


def conv(state, name, x, stride=1, same=False):
    weight = state[f"{name}.weight"]
    pad = 0 if same or weight.shape[-1] == 1 else 1
    x = F.pad(x, (0, 1, 0, 1)) if same and weight.shape[-1] == 3 else x
    return F.conv2d(x, weight, stride=stride, padding=pad)


def norm(state, name, x):
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


KINDS = {  # stem, block's prefix, its two norms and convolutions, shortcut, last norm, head, groups, activation
    "wide": ("conv1", "block{1}.layer.{2}", "bn1 conv1 bn2 conv2 convShortcut", "bn1", "fc", 3, F.relu),
    "deepmind": ("init_conv", "layer.{0}.block.{2}", "batchnorm_0 conv_0 batchnorm_1 conv_1 shortcut", "batchnorm", "logits", 3, F.silu),
    "deepmind_preact": ("conv_2d", "layer_{0}.{2}", "batchnorm_0 conv_2d_1 batchnorm_1 conv_2d_2 shortcut", "batchnorm", "logits", 4, F.silu),
    "preact": ("conv1", "layer{1}.{2}", "bn1 conv1 bn2 conv2 shortcut.0", "", "linear", 4, F.relu),
    "preact_norm": ("conv1", "layer{1}.{2}", "bn1 conv1 bn2 conv2 shortcut.0", "bn", "linear", 4, F.relu),
}  # fmt: skip
RAW = ("deepmind_preact", "preact")


def drawn(kind):
    stem, block, parts, last, head, groups, _ = KINDS[kind]
    norm1, conv1, norm2, conv2, shortcut = parts.split()
    draw = Draw()
    draw.conv(stem, 3, 4)
    before = 4
    for group in range(groups):
        for at in range(2):
            name, wide = block.format(group, group + 1, at), 8 if kind == "wide" and not group else WIDTHS[group]
            draw.norm(f"{name}.{norm1}", before)
            draw.conv(f"{name}.{conv1}", before, wide)
            draw.norm(f"{name}.{norm2}", wide)
            draw.conv(f"{name}.{conv2}", wide, wide)
            if before != wide or (group and not at):
                draw.conv(f"{name}.{shortcut}", before, wide, 3 if kind == "deepmind_preact" else 1)
            before = wide
    if last:
        draw.norm(last, before)
    draw.linear(head, before, 10)
    return draw.state


def logits(kind, state, x):
    """The zoo's own computation: robustbench/model_zoo/architectures, wide_resnet.py, dm_wide_resnet.py, resnet.py."""
    stem, block, parts, last, head, groups, act = KINDS[kind]
    norm1, conv1, norm2, conv2, shortcut = parts.split()
    x = conv(state, stem, x)
    for group in range(groups):
        for at in range(2):
            name, stride = block.format(group, group + 1, at), 2 if group and not at else 1
            same = kind.startswith("deepmind") and stride == 2
            out = act(norm(state, f"{name}.{norm1}", x))
            if f"{name}.{shortcut}.weight" in state:
                x = conv(state, f"{name}.{shortcut}", x if kind in RAW else out, stride, same)
            out = conv(state, f"{name}.{conv1}", out, stride, same)
            x = x + conv(state, f"{name}.{conv2}", act(norm(state, f"{name}.{norm2}", out)))
    x = act(norm(state, last, x)) if last else x
    x = F.avg_pool2d(x, 8 if groups == 3 else 4).flatten(1)
    return F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"])


CASES = {
    "wide": ("Carmon2019Unlabeled", lambda s: {"epoch": 9, "state_dict": {f"module.{k}": v for k, v in s.items()}}, NONE),
    "deepmind": ("Gowal2020Uncovering_28_10_extra", lambda s: s, CIFAR10),
    "deepmind_preact": ("Rebuffi2021Fixing_R18_ddpm", lambda s: {**s, "mean": torch.full((3, 1, 1), 0.4), "std": torch.full((3, 1, 1), 0.3)}, ((0.4,) * 3, (0.3,) * 3)),
    "preact": ("Andriushchenko2020Understanding", lambda s: {"last": s, "best": {k: v + 1 for k, v in s.items()}}, NONE),
    "preact_norm": ("Kireev2021Effectiveness_RLAT", lambda s: {"last": s}, CIFAR10),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_a_miniature_gives_the_logits_of_the_zoos_own_network(kind, saved):
    name, wrapped, (mean, std) = CASES[kind]
    state = drawn(kind)
    encoder = load_encoder(f"robustbench:{name}(path='{saved(wrapped(state))}')")
    x = images(32)
    features = differentiable(encoder, x)
    agrees_with_card(encoder, features)
    normalized = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(encoder.classify(features), logits(kind, state, normalized), rtol=1e-4, atol=1e-4)
    assert encoder.card.classes == 10 and "normaliz" in encoder.card.note


def test_unused_sub_blocks_are_left_out(saved):
    state = drawn("wide")
    more = {**state, **{key.replace("block1", "sub_block1"): value + 1 for key, value in state.items() if "block1" in key}}
    plain, other = (
        load_encoder(f"robustbench:Carmon2019Unlabeled(path='{saved(one, n)}')")
        for one, n in ((state, "a.pt"), (more, "b.pt"))
    )
    assert plain.card.sha256 == other.card.sha256


def test_imagenets_networks_are_torchvisions(saved):
    import torchvision

    with torch.random.fork_rng():
        net = torchvision.models.resnet18(weights=None, num_classes=5).eval()
    stored = {"state_dict": {f"module.model.{key}": value for key, value in net.state_dict().items()}}
    encoder = load_encoder(f"robustbench:Salman2020Do_R18(path='{saved(stored)}', data=imagenet)")
    x = images(64, 1)
    torch.testing.assert_close(encoder.classify(encoder(x)), net((x - encoder.mean) / encoder.std), rtol=1e-4, atol=1e-4)


def test_errors_say_what_would_be_right(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"did you mean 'Carmon2019Unlabeled'.*python:FILE:FUNCTION"):
        load_encoder("robustbench:Carmon2019Unlabelled")
    with pytest.raises(WeightsError, match=r"there is no file models/cifar10/Linf/Standard.pt"):
        load_encoder("robustbench:Standard")
    state = drawn("wide")
    del state["block2.layer.1.bn2.weight"]
    with pytest.raises(WeightsError, match="does not fit TRADES' WideResNet: 1 weights .*groups.1.1.bn2.weight"):
        load_encoder(f"robustbench:Standard(path='{saved(state)}')")
    with pytest.raises(WeightsError, match="none of the layouts of RobustBench's CIFAR networks"):
        load_encoder(f"robustbench:Standard(path='{saved({'a.weight': torch.ones(3)})}')")


def test_every_listed_name_has_one_normalization_and_the_stamp_is_the_files(saved):
    assert all(len(pair) == 2 and len(pair[0]) == len(pair[1]) == 3 for names in LISTED.values() for pair in names.values())
    assert len(LISTED["cifar10"]) >= 60 and set(IMAGENET.values()) == {"resnet50", "resnet18", "wide_resnet50_2"}
    spec = f"robustbench:Standard(path='{saved(drawn('wide'))}')"
    assert fixes_weights(spec, stamp(spec, "Encoder"))
