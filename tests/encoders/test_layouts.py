"""Every checkpoint layout gives its network's features bit for bit; weights that don't fit are refused and named."""

import pytest
import torch

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import checkpoint, load_encoder
from hardsight.encoders.checkpoint import file
from hardsight.encoders.naming import fitted, weights_of
from tests.fixtures.checkpoint_layouts import LAYOUTS
from tests.fixtures.checkpoint_networks import RESNET, VIT, network, under
from tests.fixtures.encoders import images, one_thread, saved

__all__ = ["one_thread", "saved"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_every_layout_gives_its_networks_features_to_the_last_bit(layout, saved):
    made = LAYOUTS[layout](0)
    encoder = file(saved(made.stored), **made.kwargs)
    x = images(made.side)
    assert torch.equal(encoder(x).pooled, made.pooled(x))
    assert encoder.card.mean == pytest.approx(made.mean) and encoder.card.std == pytest.approx(made.std)
    assert all(words in encoder.card.note for words in made.left), encoder.card.note
    assert encoder.card.classes == (1000 if made.net.state_dict().keys() & made.stored.keys() >= {"fc.weight"} else 0)
    if made.other[0]:
        role, net = made.other
        other = file(saved(made.stored), **made.kwargs, network=role)
        assert torch.equal(other(x).pooled, made.pooled(x, net)) and not torch.equal(other(x).pooled, encoder(x).pooled)
        assert f"its {role} network" in other.card.note and f"its {role} network" not in encoder.card.note


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_no_layout_may_lack_a_weight_or_hold_one_too_many(layout, monkeypatch):
    """The negative control of the test above: a missing weight, an extra one, and one of another shape are each named."""
    made = LAYOUTS[layout](0)
    monkeypatch.setattr(checkpoint, "read_weights", lambda place: made.stored)
    flat, _, last = made.first.rpartition(".")
    nested, path = made.stored, ""
    for part in made.first.split("."):  # down to the dictionary that holds the key
        if isinstance(nested.get(part), dict):
            nested, path = nested[part], f"{path}{part}."
    key = made.first.removeprefix(path)
    value = nested.pop(key)
    with pytest.raises(WeightsError, match=r"1 of \d+ missing: "):
        file("w.pt", **made.kwargs)
    nested[key] = torch.ones(3, *value.shape)
    with pytest.raises(WeightsError, match=r"1 of \d+ wrongly shaped: \S+ \[3, .*is wanted"):
        file("w.pt", **made.kwargs)
    nested[key] = value
    nested[flat.removeprefix(path) + ".unheard_of"] = value
    with pytest.raises(WeightsError, match=r"1 of \d+ unexpected: \S*unheard_of"):
        file("w.pt", **made.kwargs)


def test_a_broken_teacher_is_not_replaced_by_its_student(saved):
    made = LAYOUTS["DINO"](0)
    del made.stored["teacher"]["backbone.blocks.1.norm1.weight"]
    path = saved(made.stored)
    with pytest.raises(WeightsError, match="missing: blocks.1.norm1.weight"):
        file(path, **made.kwargs)
    assert torch.equal(
        file(path, **made.kwargs, network="student")(images(64)).pooled, made.pooled(images(64), made.other[1])
    )


def test_a_network_that_is_not_there_is_not_made_up(saved):
    alone = {"teacher": under("backbone.", network(VIT, 0))}
    assert "its teacher network" in file(saved(alone), **VIT).card.note
    with pytest.raises(WeightsError, match=r"no student network .* 'teacher.backbone' \(teacher\)"):
        file(saved(alone), **VIT, network="student")
    with pytest.raises(WeightsError, match="no teacher network"):
        file(saved(network(RESNET, 0).state_dict()), **RESNET, network="teacher")


def test_two_networks_of_which_nothing_is_known_are_refused_until_one_is_named(saved):
    first, second = network(RESNET, 0), network(RESNET, 1)
    path = saved({"convnet": first.state_dict(), "resnet": second.state_dict()})
    with pytest.raises(WeightsError, match="2 networks that fit, 'convnet', 'resnet'; choose one with prefix="):
        file(path, **RESNET)
    x = images(64)
    by_prefix, by_key = file(path, **RESNET, prefix="resnet"), file(path, **RESNET, key="convnet")
    second_own = second.forward_head(second.forward_features((x - by_prefix.mean) / by_prefix.std), pre_logits=True)
    assert torch.equal(by_prefix(x).pooled, second_own) and not torch.equal(by_key(x).pooled, second_own)
    assert file(saved({"convnet": first.state_dict(), "resnet": first.state_dict()}), **RESNET).card.classes == 1000


def test_a_prefix_says_that_all_else_is_left_out(saved):
    stored = {**under("module.backbone.", network(RESNET, 0)), "module.memory.bank": torch.ones(2)}
    with pytest.raises(WeightsError, match="1 of 78 unexpected: module.memory.bank"):
        file(saved(stored), **RESNET)
    assert "outside the prefix (1)" in file(saved(stored), **RESNET, prefix="module.backbone").card.note


def test_a_text_tower_of_the_same_width_is_not_taken_for_the_images(saved):
    made = LAYOUTS["CLIP"](0)
    text = LAYOUTS["RobustVLM"](9).stored
    made.stored |= {key: value for key, value in text.items() if key.startswith("transformer.resblocks.")}
    assert torch.equal(file(saved(made.stored), **made.kwargs)(images(64)).pooled, made.pooled(images(64)))


@pytest.mark.parametrize(("layout", "norms"), [("ACL", ("normal", "adv")), ("AdvCL", ("normal", "adv", "adv_ce"))])
def test_each_of_dual_batch_norms_can_be_chosen_and_is_on_the_card(layout, norms, saved):
    made = LAYOUTS[layout](0)
    path, x = saved(made.stored), images(32)
    found = {norm: file(path, **made.kwargs, norm=norm) for norm in norms}
    pooled = {norm: encoder(x).pooled for norm, encoder in found.items()}
    assert torch.equal(pooled["adv"], made.pooled(x)) and torch.equal(pooled["adv"], file(path, **made.kwargs)(x).pooled)
    assert not torch.equal(pooled["normal"], pooled["adv"])
    assert all(f"batch norm '{norm}'" in encoder.card.note for norm, encoder in found.items())
    for place, norm in enumerate(norms):
        prefix = "module." if layout == "AdvCL" else ""
        wanted = made.stored["state_dict"][f"{prefix}bn1.bn_list.{place}.weight"]
        assert torch.equal(found[norm].body.stages[0][1].weight, wanted)
    if "adv_ce" not in norms:
        with pytest.raises(WeightsError, match="no batch norm 'adv_ce'; it has adv, normal"):
            file(path, **made.kwargs, norm="adv_ce")
    with pytest.raises(WeightsError, match="no batch norm 'adv'; it has one per layer: leave norm= out"):
        file(saved(network(RESNET, 0).state_dict()), **RESNET, norm="adv")


def test_a_files_own_normalization_is_taken_unless_another_is_said(saved):
    made = LAYOUTS["DeACL"](0)
    path = saved(made.stored)
    assert "normalizes as the file says" in file(path, **made.kwargs).card.note
    given = file(path, **made.kwargs, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert given.card.mean == (0.0,) * 3 and "the file's own mean and std overruled" in given.card.note


def test_a_normalization_before_the_network_is_its_own_and_one_of_its_neighbours_is_not(saved):
    """RobustBench: `normalize` and `model` in a sequence."""
    net = network(RESNET, 0)
    own = {"normalize.mean": torch.full((1, 3, 1, 1), 0.25), "normalize.std": torch.full((1, 3, 1, 1), 0.5)}
    assert file(saved({**under("model.", net, ()), **own}), **RESNET).card.mean == (0.25,) * 3
    made = LAYOUTS["DeACL"](0)
    body = made.stored["state_dict"]
    made.stored["state_dict"] = {key: value for key, value in body.items() if not key.startswith("backbone.normalize")}
    assert file(saved(made.stored), **made.kwargs).card.mean[0] == 0.485


def test_an_architecture_of_several_normalizations_needs_one_said(saved):
    kwargs = {name: value for name, value in VIT.items() if name not in ("mean", "std")}
    path = saved(network(VIT, 0).state_dict())
    with pytest.raises(SpecError, match=r"several normalizations: .*\.dino \(mean 0.485\).*mean= and std="):
        file(path, **kwargs)
    assert file(path, **{**kwargs, "arch": "vit_small_patch16_224.dino"}).card.mean[0] == 0.485
    assert file(path, **{**kwargs, "arch": "vit_small_patch16_224.augreg_in1k"}).card.mean[0] == 0.5


def test_a_projection_in_the_classifiers_place_is_no_classifier(saved):
    """MoCo v1's `fc` is a linear layer with 128 outputs, exactly like a classifier of 128 classes."""
    net = network({**RESNET, "options": {**RESNET["options"], "num_classes": 128}}, 0)
    moco = file(saved({"state_dict": under("module.encoder_q.", net, ())}), **RESNET)
    plain = file(saved({"state_dict": under("module.", net, ())}), **RESNET)
    assert (moco.card.classes, plain.card.classes) == (0, 128) and "fc (2)" in moco.card.note
    without = file(saved(net.state_dict()), **{**RESNET, "options": {**RESNET["options"], "num_classes": 0}})
    assert without.card.classes == 0 and "fc (2)" in without.card.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.ones(64, 3, 3, 3)}, r"CIFAR stem: arch='tv:resnet18', options=\{'stem': 'cifar'\}"),
        ({"layer5.0.conv1.weight": torch.ones(2)}, "1 of 79 unexpected: layer5.0.conv1.weight"),
        ({"attn_pool.q.weight": torch.ones(2)}, "unexpected: attn_pool.q.weight"),
    ],
)
def test_what_is_no_head_is_never_taken_for_one(change, message, saved):
    with pytest.raises(WeightsError, match=message):
        file(saved({**under("", network(RESNET, 0)), **change}), **RESNET)


def test_an_encoder_of_clips_is_distinguished_from_one_of_images(saved):
    """V-JEPA's names are those of an image transformer; its patches have a time axis."""
    state = under("module.backbone.", network(VIT, 0))
    state["module.backbone.patch_embed.proj.weight"] = torch.ones(48, 3, 2, 16, 16)
    with pytest.raises(WeightsError, match="encoder of clips"):
        file(saved({"encoder": state, "target_encoder": state}), **VIT)


def test_any_network_can_take_its_weights_from_a_layout():
    """As a loader of video encoders needs: V-JEPA's target encoder, for a network that is not an image encoder."""
    net, other = (torch.nn.Sequential(torch.nn.Conv3d(3, 8, 2), torch.nn.LayerNorm(8)) for _ in range(2))
    stored = {**under("target_encoder.module.backbone.", net), **under("encoder.module.backbone.", other)}
    stored |= {"predictor.module.backbone.mask_tokens.0": torch.ones(2)}
    found = fitted(other, weights_of(stored, other, "vitl16.pth.tar"), "V-JEPA", "vitl16.pth.tar")
    other.load_state_dict(found.state)
    assert torch.equal(other.state_dict()["0.weight"], net.state_dict()["0.weight"]) and found.role == "teacher"
    assert found.left == {"another copy, encoder.module.backbone": 4, "predictor": 1}


def test_lightlys_sequence_lacks_a_relu_and_says_so(saved):
    made = LAYOUTS["lightly's own ResNet"](0)
    with pytest.raises(WeightsError, match=r"stem is 'cifar_bare': give options=\{'stem': 'cifar_bare'\}"):
        file(saved(made.stored), "tv:resnet18", options={"stem": "cifar"})


def test_biases_that_an_architecture_has_no_place_for_are_not_dropped(saved):
    made = LAYOUTS["DINOv3"](0)
    kwargs = {**made.kwargs, "arch": "vit_small_patch16_dinov3"}
    with pytest.raises(WeightsError, match="2 of .* unexpected: blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias"):
        file(saved(made.stored), **kwargs)
    for key, value in made.stored["teacher"].items():
        if key.endswith("qkv.bias"):
            value.zero_()
    assert file(saved(made.stored), **kwargs).card.dim == 48


def test_a_spec_reads_a_layout_too(saved):
    made = LAYOUTS["DeACL"](0)
    spec = f"file:{saved(made.stored)}(arch='tv:resnet18', options={{'stem': 'cifar_pad2'}}, network='teacher')"
    encoder = load_encoder(spec)
    assert torch.equal(encoder(images(32)).pooled, made.pooled(images(32), made.other[1]))
    with pytest.raises(SpecError, match="network"):
        load_encoder(spec.replace("teacher", "both"))
