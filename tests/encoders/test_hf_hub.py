"""Encoders of transformers and torch.hub: the model's exact outputs from small local folders, and clear errors."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from hardsight.core.errors import MissingDependency, SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.encoders.hub_models import hub
from tests.fixtures.encoders import agrees_with_card, differentiable, images, one_thread

__all__ = ["one_thread"]


def hf_configs():
    transformers = pytest.importorskip("transformers")
    plain = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    four = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return {
        "dinov2": transformers.Dinov2Config(**{**plain, "patch_size": 14, "image_size": 28}),
        "registers": transformers.Dinov2WithRegistersConfig(**plain),
        "vit": transformers.ViTConfig(**plain),
        "deit": transformers.DeiTConfig(**plain),
        "beit": transformers.BeitConfig(**plain),
        "mae": transformers.ViTMAEConfig(**plain),
        "ijepa": transformers.IJepaConfig(**plain),
        "dinov3": transformers.DINOv3ViTConfig(**plain, num_register_tokens=4),
        "clip": transformers.CLIPVisionConfig(**plain),
        "siglip": transformers.SiglipVisionConfig(**plain),
        "convnext": transformers.ConvNextConfig(**four),
        "resnet": transformers.ResNetConfig(**four, embedding_size=8, layer_type="basic"),
    }


def hf_saved(kind, folder):
    import transformers

    config = hf_configs()[kind]
    towers = {"clip": transformers.CLIPVisionModel, "siglip": transformers.SiglipVisionModel}
    torch.manual_seed(0)
    model = towers[kind](config) if kind in towers else transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    "kind", ["dinov2", "registers", "dinov3", "vit", "deit", "beit", "mae", "ijepa", "clip", "siglip", "convnext", "resnet"]
)
def test_a_local_folder_of_transformers(kind, tmp_path):
    model = hf_saved(kind, tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}(layers=[-2, -1])")
    x = images(45 if encoder.body.patch else 64)
    features = differentiable(encoder, x)
    agrees_with_card(encoder, features)
    assert torch.equal(encoder(x).dense, features.dense)
    side = encoder.card.size if encoder.body.patch else 64
    x = images(side)
    normalized = (x - encoder.mean) / encoder.std
    options = {"noise": torch.arange((side // 8) ** 2).expand(2, -1).float()} if kind == "mae" else {}
    if kind == "mae":
        model.config.mask_ratio = 0.0
    with torch.no_grad():
        out = model(pixel_values=normalized, **options)
    features = encoder(x)
    if kind in ("clip", "siglip", "convnext", "resnet"):
        wanted = out.pooler_output.flatten(1)
    elif kind == "ijepa":
        wanted = out.last_hidden_state.mean(1)
    else:
        wanted = out.last_hidden_state[:, 0]
    torch.testing.assert_close(features.pooled, wanted)
    if encoder.body.patch:
        cells = features.dense.shape[-1] * features.dense.shape[-2]
        tokens = out.last_hidden_state[:, -cells:].transpose(1, 2)
        torch.testing.assert_close(features.dense[:, -32:].flatten(2), tokens)


@pytest.mark.parametrize("kind", ["dinov2", "registers", "dinov3", "mae", "ijepa", "clip", "siglip"])
def test_a_size_that_the_patch_does_not_divide_is_padded_within_the_graph(kind, tmp_path):
    hf_saved(kind, tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    patch = encoder.body.patch
    x = images(3 * patch - 3)
    features = differentiable(encoder, x)
    assert features.size == (3 * patch - 3,) * 2 and features.covered == (3 * patch,) * 2
    assert features.dense.shape == (2, 32, 3, 3)
    padded = torch.nn.functional.pad(x, (0, 3, 0, 3), mode="replicate")
    assert torch.equal(encoder(padded).dense, features.dense)


def test_dense_tokens_are_patches_and_nothing_else(tmp_path):
    """Changed pixels in one corner change that corner's cell most, for any kind of tokens before the patches."""
    for kind in ("registers", "dinov3", "deit", "ijepa"):
        hf_saved(kind, tmp_path / kind)
        encoder = load_encoder(f"hf:{tmp_path / kind}(layers=[0])")
        x = images(32, count=1)
        moved = x.clone()
        moved[:, :, -8:, -8:] = 1 - moved[:, :, -8:, -8:]
        change = (encoder(moved).dense - encoder(x).dense).norm(dim=1)[0]
        assert change.argmax() == change.numel() - 1, kind


def test_the_image_tower_is_taken_out_of_a_model_of_images_and_text(tmp_path, capfd):
    transformers = pytest.importorskip("transformers")
    vision = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    for name in ("CLIP", "Siglip"):
        config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text)
        model = getattr(transformers, f"{name}Model")(config).eval()
        model.save_pretrained(tmp_path / name)
        encoder = load_encoder(f"hf:{tmp_path / name}")
        x = images(32)
        with torch.no_grad():
            wanted = model.vision_model(pixel_values=(x - encoder.mean) / encoder.std)
        torch.testing.assert_close(encoder(x).pooled, wanted.pooler_output)
        torch.testing.assert_close(encoder(x).dense.flatten(2), wanted.last_hidden_state[:, -16:].transpose(1, 2))
    assert "UNEXPECTED" not in "".join(capfd.readouterr())


def test_a_tower_that_needs_more_than_images_is_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    transformers.Siglip2VisionConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(SpecError, match=r"is a siglip2_vision_model, none of the vision encoders"):
        load_encoder(f"hf:{tmp_path}(pretrained=False)")


def test_transformers_reads_the_image_processors_statistics_and_configs_alone(tmp_path):
    hf_configs()["vit"].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    encoder = load_encoder(f"hf:{tmp_path}(pretrained=False)")
    assert encoder.card.mean == (0.5, 0.5, 0.5) and encoder.card.std == (0.25, 0.25, 0.25)
    with pytest.raises(WeightsError):
        load_encoder(f"hf:{tmp_path}")


def test_transformers_never_leaves_an_encoders_weight_random(tmp_path):
    model = hf_saved("vit", tmp_path)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "layernorm.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 .*layernorm.weight"):
        load_encoder(f"hf:{tmp_path}")


def test_missing_transformers_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hardsight\[hf\]'"):
        load_encoder("hf:facebook/dinov2-small")


HUBCONF = """
dependencies = ["torch"]
import torch
from torch import nn

class Dino(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 8, 8)
        self.patch_size = 8
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

class One(Dino):
    def get_intermediate_layers(self, x, n=1):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x, found = torch.cat([x.mean(1, keepdim=True), x], 1), []
        for block in self.blocks:
            x = torch.relu(block(x))
            found.append(x)
        return found[-n:]

class Two(Dino):
    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        x, found = self.patch_embed(x), []
        for block in self.blocks:
            x = torch.relu(block(x.movedim(1, -1))).movedim(-1, 1)
            found.append((x, x.mean((2, 3))))
        return tuple(found[i] for i in n)

def one(): return One(False)
def two(): return Two(True)
def other(): return nn.Linear(3, 3)
def broken(): raise RuntimeError("as it happens")
def resnet(classes=5):
    import torchvision
    return torchvision.models.resnet18(weights=None, num_classes=classes)
def vit():
    import timm
    return timm.create_model("vit_tiny_patch16_224", depth=2, dynamic_img_size=True)
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    return tmp_path


@pytest.mark.parametrize("name", ["one", "two", "resnet", "vit"])
def test_a_local_torch_hub_repository_is_adapted_by_what_it_can_do(name, repository):
    encoder = load_encoder(f"hub:{repository}:{name}(layers=[-2, -1], size=64)")
    features = differentiable(encoder, images(60 if encoder.body.multiple > 1 else 64))
    agrees_with_card(encoder, features)
    assert encoder.card.classes == {"resnet": 5, "vit": 1000}.get(name, 0)
    assert load_encoder(f"hub:{repository}:{name}(layers=[-2, -1], size=64)").card.sha256 == encoder.card.sha256


def test_torch_hub_errors_say_what_is_wrong(repository):
    with pytest.raises(SpecError, match="has no entry 'onee'; did you mean 'one'"):
        hub(f"{repository}:onee")
    with pytest.raises(SpecError, match="no get_intermediate_layers"):
        hub(f"{repository}:other")
    with pytest.raises(WeightsError, match="as it happens"):
        hub(f"{repository}:broken")
    with pytest.raises(WeightsError, match="no hubconf.py"):
        hub(f"{repository / 'nowhere'}:one")
    assert load_encoder(f"hub:{repository}:resnet(options={{'classes': 3}})").card.classes == 3
