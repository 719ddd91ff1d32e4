"""Pictures are prepared as the encoders' own libraries prepare them: equal in every bit of uint8, for networks of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hardsight.core.errors import DataError, SpecError
from hardsight.data.images import fit, open_image
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import build, complete

SHAPES = ((375, 500), (500, 333), (231, 227), (97, 640), (60, 45), (259, 301))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """JPEG files of unlike sizes, in RGB, grey and CMYK, and a PNG: smooth colours with sharp edges and noise."""
    folder, rng, files = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for place, (high, wide) in enumerate(SHAPES):
        rows, columns = np.mgrid[:high, :wide]
        waves = np.stack([127 + 120 * np.sin(rows / (9 + c)) * np.cos(columns / (5 + 3 * c)) for c in range(3)], -1)
        waves[high // 3 : high // 2, wide // 4 : wide // 2] = (255, 0, 30)
        image = Image.fromarray((waves + rng.normal(0, 6, waves.shape)).clip(0, 255).astype(np.uint8))
        mode = ("RGB", "L", "CMYK", "RGB", "L", "RGB")[place]
        files.append(folder / f"{place}.{'png' if place == 5 else 'jpg'}")
        image.convert(mode).save(files[-1], **({} if place == 5 else {"quality": 93}))
    return files


def ours(encoder, file):
    return fit(open_image(file), build(encoder.card.preprocess, "Preprocess"))


TIMM = (
    "tf_efficientnet_lite0", "resnet18.a1_in1k", "convnext_atto.d2_in1k", "mobilenetv3_small_050", "vit_tiny_patch16_224",
    "regnety_002.pycls_in1k", "test_vit.r160_in1k", "xcit_nano_12_p8_224.fb_dist_in1k", "fasternet_t0.in1k",
)  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_get_the_pictures_of_timms_validation(name, pictures):
    from timm.data import create_transform, resolve_data_config

    encoder = load_encoder(f"timm:{name}(pretrained=False)")
    config = resolve_data_config({}, pretrained_cfg=encoder.body.model.pretrained_cfg, use_test_size=True)
    transform = create_transform(**config, normalize=False)
    assert encoder.card.mean == tuple(config["mean"])
    for file in pictures:
        right = transform(Image.open(file).convert("RGB")).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours(encoder, file), right)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("sides", [(224, 224), (192, 256)])
def test_timms_crop_modes(mode, sides, pictures):
    from timm.data import create_transform

    from hardsight.encoders.prepared import of_timm

    cfg = {
        "input_size": (3, *sides),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": mode,
        "mean": (0.5, 0.4, 0.3),
    }
    found = build(of_timm(cfg).preprocess, "Preprocess")
    given = {key: value for key, value in cfg.items() if key != "input_size"}
    transform = create_transform(input_size=cfg["input_size"], **given, normalize=False)
    for file in pictures:
        right = transform(Image.open(file).convert("RGB")).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found(open_image(file)), right)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "efficientnet_b0", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision_models_get_the_pictures_of_their_weights(name, pictures):
    from torchvision.models import get_model_weights

    transform = next(iter(get_model_weights(name))).transforms()
    transform.mean, transform.std = [0.0] * 3, [1.0] * 3
    encoder = load_encoder(f"tv:{name}(weights=None)")
    for file in pictures:
        right = (255 * transform(Image.open(file).convert("RGB"))).round().to(torch.uint8).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours(encoder, file), right)


def processors():
    """By name: the processor's class, and the arguments that differ from its defaults."""
    return {
        "vit": ("ViTImageProcessor", {}),
        "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 256}}),
        "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 225}}),
        "deit": ("DeiTImageProcessor", {}),
        "convnext_224": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        "convnext_384": ("ConvNextImageProcessor", {}),
        "siglip": ("SiglipImageProcessor", {}),
        "efficientnet": ("EfficientNetImageProcessor", {"do_center_crop": True}),
        "mobilevit": ("MobileViTImageProcessor", {}),
        "levit": ("LevitImageProcessor", {}),
        "poolformer": ("PoolFormerImageProcessor", {}),
        "unresized": ("CLIPImageProcessor", {"do_resize": False}),
    }


@pytest.mark.parametrize("name", processors())
def test_transformers_models_get_the_pictures_of_their_processor(name, pictures):
    import transformers

    from hardsight.encoders.prepared import of_processor

    kind, given = processors()[name]
    processor = getattr(transformers, f"{kind}Pil")(**given)
    found = of_processor(processor.to_dict(), name)
    for file in pictures:
        image = Image.open(file).convert("RGB")
        off = {"do_rescale": False, "do_normalize": False, "include_top": False, "do_flip_channel_order": False}
        known = {key: value for key, value in off.items() if hasattr(processor, key)}
        right = processor(images=image, return_tensors="np", **known)["pixel_values"][0].transpose(1, 2, 0)
        mine = build(found.preprocess, "Preprocess")(open_image(file))
        np.testing.assert_array_equal(mine, right)
        pixels = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        pixels = pixels[..., ::-1] if found.bgr else pixels
        np.testing.assert_allclose((mine / 255 - np.array(found.mean)) / np.array(found.std), pixels, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "most"), [("ViTImageProcessor", 1), ("BitImageProcessor", 2), ("DINOv3ViTImageProcessor", 1)]
)
def test_transformers_on_tensors_rounds_otherwise(kind, most, pictures):
    """The largest difference of the docstring, of 255: processors on torch tensors, transformers' default, are not Pillow."""
    import transformers

    from hardsight.encoders.prepared import of_processor

    processor = getattr(transformers, kind)()
    found = build(of_processor(processor.to_dict(), kind).preprocess, "Preprocess")
    off = {"do_normalize": False}
    apart = []
    for file in pictures:
        right = processor(images=Image.open(file).convert("RGB"), return_tensors="pt", **off)["pixel_values"][0]
        mine = torch.from_numpy(found(open_image(file))).permute(2, 0, 1)
        apart.append(float((255 * right - mine).abs().max()))
    assert max(apart) <= most + 0.01, apart


OTHERS = {"DeepseekOcr2", "GraniteDocling", "Idefics", "LayoutLMv2", "LayoutLMv3", "SuperPoint", "VideoMAE"}
"""Processors of documents, key points and clips, which `hf` doesn't read, that cut or normalize in their own way."""


@pytest.mark.slow
def test_every_processor_of_transformers_is_followed_or_left_out_by_name():
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as known

    from hardsight.encoders.prepared import OVERRIDES, of_processor

    rng, equal, refused = np.random.default_rng(0), set(), []
    pictures = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((97, 131), (301, 227))]
    settings = (
        {},
        {"do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False},
    )
    for name in sorted({found["pil"] for found in known.values() if str(found.get("pil")).endswith("Pil")}):
        kind = getattr(transformers, name)
        for given in settings if name.removesuffix("ImageProcessorPil") not in OTHERS else ():
            processor = kind(**given)
            overridden = tuple(key for key in ("resize", "center_crop") if key in vars(kind))
            try:
                found = of_processor({**processor.to_dict(), OVERRIDES: overridden}, name)
            except SpecError as error:
                refused.append((name, str(error)))
                continue
            assert found.preprocess or found.note, name
            for picture in pictures if found.preprocess else ():
                right = np.asarray(processor(images=Image.fromarray(picture), return_tensors="np")["pixel_values"])[0]
                mine = (build(found.preprocess, "Preprocess")(picture) / 255 - np.array(found.mean)) / np.array(found.std)
                mine = mine[..., ::-1] if found.bgr else mine
                np.testing.assert_allclose(mine, right.transpose(1, 2, 0), atol=2e-5, err_msg=f"{name} {given}")
                equal.add(name)
    assert len(equal) > 20, equal
    assert all(name in error for name, error in refused)


def test_an_encoder_built_for_another_size_gets_pictures_of_it():
    assert load_encoder("timm:resnet18(pretrained=False, size=96)").card.preprocess.startswith("evaluation(96, resize=101")
    assert load_encoder("tv:resnet18(weights=None, size=96)").card.preprocess == "evaluation(96, resize=109)"
    assert load_encoder("tv:resnet18(weights=None, stem='cifar')").card.preprocess == ""


def test_a_preprocessing_that_cannot_be_is_refused():
    for wrong in (
        "evaluation(0)",
        "evaluation(224, 20000)",
        "evaluation(8, mode=squash)",
        "evaluation(8, fill=[0, 0, 300])",
    ):
        with pytest.raises(DataError, match="evaluation"):
            build(wrong, "Preprocess")
    with pytest.raises(SpecError, match="interpolation"):
        complete("evaluation(8, 9, cubic)", "Preprocess")
    with pytest.raises(DataError, match="masks"):
        fit(np.zeros((9, 9), np.uint8), build("evaluation(8)", "Preprocess"), nearest=True)


def test_a_reader_takes_a_size_or_a_preprocessing():
    for size in ("32", "[24, 32]", "None", "evaluation(32, 36)"):
        assert complete(f"imagenet('somewhere', size={size})", "Data")
    with pytest.raises(SpecError, match="Preprocess"):
        complete("imagenet('somewhere', size=['a', 2])", "Data")
    with pytest.raises(SpecError, match="size"):
        complete("ade20k('somewhere', size=evaluation(32, 36))", "Data")
