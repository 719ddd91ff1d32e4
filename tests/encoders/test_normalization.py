"""Pixels are normalized as weights, processors and files say: features equal those of the library or of the whole network."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from torch import nn

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.encoders.prepared import of_processor, of_torchvision
from hardsight.encoders.resnets import reform
from hardsight.encoders.zoo import known
from hardsight.specs.catalog import complete

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


def test_torchvision_weights_are_normalized_as_their_transforms_say():
    from torchvision.models import EfficientNet_V2_L_Weights, VGG16_Weights

    assert of_torchvision(EfficientNet_V2_L_Weights.DEFAULT.transforms())[1:3] == ((0.5,) * 3, (0.5,) * 3)
    found = of_torchvision(VGG16_Weights.IMAGENET1K_FEATURES.transforms())
    assert found.mean == (0.48235, 0.45882, 0.40784) and found.std == (1 / 255,) * 3


@pytest.mark.slow
def test_efficientnet_v2_l_is_of_one_half():
    assert load_encoder("tv:efficientnet_v2_l(weights=None)").card.mean == (0.5,) * 3


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64)
    model = ViTModel(config).eval()
    model.save_pretrained(folder)
    return folder, model


PROCESSORS = (
    {"do_normalize": False},
    {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    {"do_rescale": False, "do_normalize": False},
    {"do_rescale": False, "image_mean": [103.5, 116.3, 123.7], "image_std": [57.4, 57.1, 58.4]},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 1.0, 1.0]},
    {},
)


@pytest.mark.parametrize("said", PROCESSORS)
def test_transformers_features_are_those_behind_its_own_processor(vit, said):
    from transformers import AutoImageProcessor

    folder, model = vit
    given = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}, **said}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    encoder = load_encoder(f"hf:{folder}")
    pictures = (255 * X).round().to(torch.uint8)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    right = model(**processor(images=list(pictures.permute(0, 2, 3, 1).numpy()), return_tensors="pt")).last_hidden_state[
        :, 0
    ]
    torch.testing.assert_close(encoder(pictures / 255).pooled, right, atol=2e-4, rtol=1e-4)


def test_a_processor_that_cannot_be_followed_is_refused_by_name(vit):
    folder, _ = vit
    plain = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
    for said, named in (
        ({"image_mean": None}, "image_mean"),
        ({"do_color_quantize": True}, "do_color_quantize"),
        ({"rescale_factor": 0}, "rescale_factor"),
    ):
        usual = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": 0.5, "image_std": 0.5}
        with pytest.raises(SpecError, match=named):
            of_processor({**usual, **plain, **said}, "hf:a")
    (folder / "preprocessor_config.json").unlink()
    assert "no image processor" in load_encoder(f"hf:{folder}").card.note
    (folder / "preprocessor_config.json").write_text(json.dumps({**plain, "do_pad": True}))
    card = load_encoder(f"hf:{folder}").card
    assert card.preprocess == "" and "do_pad" in card.note


class Normalize(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.register_buffer(first, torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer(second, torch.tensor(STD).view(3, 1, 1))


def network():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return reform(resnet18(num_classes=10), "resnet18", "cifar", "torch").eval()


@pytest.fixture(scope="module")
def net():
    return network()


def madry(net):
    """The keys of MadryLab/robustness: a network, its normalization, and both again within the attacker; DataParallel."""
    attacker = nn.Module()
    attacker.model, attacker.normalize = net, Normalize("new_mean", "new_std")
    whole = nn.Module()
    whole.normalizer, whole.model, whole.attacker = attacker.normalize, net, attacker
    return {"model": {f"module.{key}": value for key, value in whole.state_dict().items()}, "epoch": 3}


def sequence(net):
    """A normalization as the first of a named sequence."""
    return nn.Sequential(OrderedDict(normalize=Normalize("mean", "std"), model=net)).state_dict()


def madry_cifar(net):
    """The same of its CIFAR networks, which have names of their own: `shortcut`, and `linear` for the classifier."""
    stored = madry(net)
    renamed = {
        key.replace(".downsample.", ".shortcut.").replace(".fc.", ".linear."): value
        for key, value in stored["model"].items()
    }
    return {**stored, "model": renamed}


OPTIONS = "arch='tv:resnet18', options={'stem': 'cifar'}"


@pytest.mark.parametrize(
    ("layout", "extra"), [(madry, ""), (madry_cifar, ""), (madry, ", prefix='model.module.model'"), (sequence, "")]
)
def test_a_file_is_normalized_as_it_says(layout, extra, net, tmp_path):
    torch.save(layout(net), tmp_path / "w.pt")
    encoder = load_encoder(f"file('{tmp_path}/w.pt', {OPTIONS}{extra})")
    assert encoder.card.mean == MEAN and encoder.card.std == STD
    normalized = (X - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(encoder.classify(encoder(X)), net(normalized))


def test_a_prefix_does_not_hide_a_normalization_of_unknown_name(net, tmp_path):
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    state |= {f"scaling.{key}": value for key, value in Normalize("mean", "std").state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    spec = f"file('{tmp_path}/w.pt', {OPTIONS}, prefix='model'"
    with pytest.raises(WeightsError, match=r"scaling\.mean.*give mean= and std="):
        load_encoder(f"{spec})")
    assert load_encoder(f"{spec}, mean={list(MEAN)}, std={list(STD)})").card.mean == MEAN
    torch.save({**sequence(net), "normalize.mean": torch.tensor([123.7, 116.3, 103.5])}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="pixels in"):
        load_encoder(f"file('{tmp_path}/w.pt', {OPTIONS})")


HUBCONF = """
import timm
def own():
    return timm.create_model("tf_efficientnet_lite0", pretrained=False)
def plain():
    from torchvision.models import resnet18
    return resnet18()
"""


def test_torch_hub_takes_what_a_model_of_timm_says_and_notes_where_nothing_does(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    card = load_encoder(f"hub:{tmp_path}:own").card
    assert card.mean == (0.5,) * 3 and card.preprocess == "evaluation(224, resize=256, interpolation='bicubic')"
    card = load_encoder(f"hub:{tmp_path}:plain").card
    assert "ImageNet's mean and std" in card.note and card.preprocess == ""
    assert load_encoder(f"hub('{tmp_path}:plain', mean={list(MEAN)}, std={list(STD)})").card.note == ""


def test_the_zoo_prepares_pictures_as_the_publishers_code_evaluates():
    listed = {row["name"]: row["preprocess"] for row in known() if "preprocess" in row}
    assert listed["dino_vits16"] == "evaluation(224, 256, 'bicubic')" and listed["mocov3_vits16"] == "evaluation(224, 256)"
    for text in listed.values():
        complete(text, "Preprocess")
