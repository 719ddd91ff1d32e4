"""MAE against the transformers library's, with equal weights; hidden patches are hidden, also from an adversary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.encoders import load_encoder
from hardsight.losses.objective import Objective, Reading, loss_and_grad
from hardsight.specs.catalog import build
from hardsight.training.methods.base import Learner, Samples
from hardsight.training.methods.mae import patches, positions
from tests.conftest import toy_card, toy_images

SIDE = 64
VIT = f"timm(test_vit, pretrained=False, size={SIDE})"
SMALL = "mae(width=32, depth=1, heads=4)"


def begun(spec: str = SMALL, encoder: str = VIT) -> Any:
    net = load_encoder(encoder).requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec, "Method").begin(net, toy_card(), 8)


def images(count: int = 8) -> Samples:
    return Samples(toy_images(count, SIDE), {}, torch.arange(count))


def when(step: int = 0, **more: int) -> When:
    return When(seeds.generator("mae", step), **more)


def theirs(learner: Any) -> Any:
    """The transformers library's model with our learner's weights."""
    transformers = pytest.importorskip("transformers")
    model, decoder = learner.encoder.body.model, learner.decoder
    config = transformers.ViTMAEConfig(
        hidden_size=model.embed_dim, num_hidden_layers=len(model.blocks), num_attention_heads=model.blocks[0].attn.num_heads,
        intermediate_size=model.blocks[0].mlp.fc1.out_features, image_size=SIDE, patch_size=16, layer_norm_eps=1e-6,
        decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, decoder_intermediate_size=128,
        mask_ratio=0.75, norm_pix_loss=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    other = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        encoder, head = other.vit, other.decoder
        encoder.embeddings.cls_token.copy_(model.cls_token)
        encoder.embeddings.position_embeddings.copy_(model.pos_embed)
        encoder.embeddings.patch_embeddings.projection.load_state_dict(model.patch_embed.proj.state_dict())
        encoder.layernorm.load_state_dict(model.norm.state_dict())
        layers = getattr(encoder, "layers", None) or encoder.encoder.layer
        for layer, block in (
            *zip(layers, model.blocks, strict=True),
            *zip(head.decoder_layers, decoder.blocks, strict=False),
        ):
            fill(layer, block)
        head.decoder_embed.load_state_dict(decoder.narrow.state_dict())
        head.mask_token.copy_(decoder.hidden)
        head.decoder_pos_embed[0, 1:] = positions((4, 4), 32)  # a new model of theirs has zeros here
        head.decoder_norm.load_state_dict(decoder.norm.state_dict())
        head.decoder_pred.load_state_dict(decoder.tell.state_dict())
    return other


def fill(layer: Any, block: Any) -> None:
    """Sets a transformer layer of theirs to a block's weights, matched by parameter names."""
    mine = {"q": 0, "k": 1, "v": 2}
    for name, value in layer.named_parameters():
        kind = name.rsplit(".", 1)[1]
        if any(f"{part}_proj" in name or word in name for part, word in zip("qkv", ("query", "key", "value"), strict=True)):
            place = next(
                n
                for part, n in mine.items()
                if f"{part}_proj" in name or {"q": "query", "k": "key", "v": "value"}[part] in name
            )
            source = getattr(block.attn.qkv, kind).chunk(3)[place]
        elif "before" in name:
            source = getattr(block.norm1, kind)
        elif "after" in name:
            source = getattr(block.norm2, kind)
        elif "intermediate" in name or "fc1" in name:
            source = getattr(block.mlp.fc1, kind)
        elif "o_proj" in name or "attention.output" in name:
            source = getattr(block.attn.proj, kind)
        elif "output" in name or "fc2" in name:
            source = getattr(block.mlp.fc2, kind)
        else:
            raise AssertionError(name)
        value.copy_(source)


@torch.no_grad()
def test_the_loss_is_theirs() -> None:
    learner, rng = begun().eval(), torch.Generator().manual_seed(0)
    for value in learner.parameters():  # no norm or bias keeps its initial value, so that none can be confused with another
        value += 0.05 * torch.randn(value.shape, generator=rng)
    x, order, goal = learner.draw(images(), when())
    ours = learner.read((x, order, goal), images(), when()).loss
    other = theirs(learner)
    pixels = (x - learner.encoder.mean) / learner.encoder.std
    found = other(pixels, noise=order.argsort(1).float())
    assert ours.shape == (8,)
    assert float(ours.mean()) == pytest.approx(float(found.loss), abs=1e-5)
    predicted = learner.decoder(learner._visible(pixels, order[:, :4]), order[:, :4], (4, 4))
    assert torch.allclose(predicted, found.logits, atol=1e-5)
    assert torch.allclose(patches(pixels, 16), other.patchify(pixels))
    flipped = other(pixels, noise=order.argsort(1).float().flip(1))  # negative control: another mask, another output
    assert (flipped.logits - found.logits).abs().max() > 0.1


def test_positions_encode_column_then_row() -> None:
    pytest.importorskip("transformers")
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEConfig, ViTMAEDecoder

    config = ViTMAEConfig(decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4, hidden_size=16)
    theirs = ViTMAEDecoder(config, num_patches=16).decoder_pos_embed[0, 1:]
    assert torch.allclose(positions((4, 4), 32).float(), theirs, atol=1e-6)
    assert len(positions((2, 3), 32).unique(dim=0)) == 6


def test_the_goal_is_each_patch_with_mean_0_and_variance_1() -> None:
    _, order, goal = begun().draw(images(), when())
    assert goal.shape == (8, 16, 768) and order.shape == (8, 16)
    assert goal.mean(-1).abs().max() < 1e-4
    assert torch.allclose(goal.var(-1), torch.ones(8, 16), atol=1e-2)
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(8, 16))
    assert len({tuple(row) for row in order.tolist()}) == 8


def test_what_is_hidden_is_not_seen() -> None:
    """The loss has zero gradient at hidden patches and a nonzero one at visible ones, whose targets do not count."""
    learner = begun().eval()
    x, order, goal = learner.draw(images(), when())

    def read(x: Tensor, target: Any, progress: float) -> Reading:
        return Reading(learner.read((x, order, goal), images(), when()).loss)

    _, grad = loss_and_grad(Objective(read, coupled=True), x, 1.0)
    slope = patches(grad, 16).abs().amax(-1)
    assert slope.gather(1, order[:, 4:]).max() == 0
    assert slope.gather(1, order[:, :4]).min() > 0
    loss = learner.read((x, order, goal), images(), when()).loss
    for places, same in ((order[:, :4], True), (order[:, 4:], False)):
        other = goal.scatter(1, places[:, :, None].expand(-1, -1, 768), 9.0)
        assert torch.equal(learner.read((x, order, other), images(), when()).loss, loss) == same


def test_draws_follow_the_seed_and_are_shared_out() -> None:
    learner, batch = (
        begun("mae(width=32, depth=1, heads=4, views=views(1, scale=(1, 1), jitter=0, grey=0, flip=False))"),
        images(),
    )
    whole = learner.draw(batch, when())
    assert all(torch.equal(one, other) for one, other in zip(whole, learner.draw(batch, when()), strict=True))
    assert not torch.equal(whole[1], learner.draw(batch, when(1))[1])
    first, last = (
        learner.draw(Samples(batch.x[rows], {}, batch.places[rows]), when(rank=rank, world=2))[1]
        for rank, rows in enumerate((slice(0, 4), slice(4, 8)))
    )
    assert len({tuple(row) for row in torch.cat([first, last]).tolist()}) == 8


def test_an_adversary_moves_the_image_under_the_same_mask() -> None:
    learner = begun(f"replace({SMALL}, adversary(pgd(4, keep=last)))")
    batch, inner = images(), learner.inner.eval()
    views = inner.draw(batch, when())
    moved = learner.adversary(inner, views, lambda v: inner.read(v, batch, when()).loss, when())
    assert torch.equal(moved[1], views[1]) and torch.equal(moved[2], views[2])
    assert 0 < float((moved[0] - views[0]).detach().abs().max()) <= 8 / 255 + 1e-6
    before, after = (inner.read(v, batch, when()).loss.detach() for v in (views, moved))
    assert float(after.mean()) > float(before.mean()) + 1e-4


@pytest.mark.parametrize("spec", [SMALL, *(f"{name}({SMALL})" for name in ("replace", "dual", "free", "trajectory"))])
def test_it_trains(spec: str) -> None:
    spec = spec.replace("trajectory(", "trajectory(steps=1, method=")
    if spec.startswith(("replace", "dual")):
        spec = spec[:-1] + ", adversary(pgd(1, keep=last)))"
    learner, batch = begun(spec), images()
    losses = train(learner, batch)
    assert losses[-1] < losses[0] - 0.02, losses


def train(learner: Learner, batch: Samples) -> list[float]:
    optimizer = torch.optim.AdamW([one for one in learner.parameters() if one.requires_grad], lr=2e-3)
    losses = []
    for _ in range(12):
        step = learner(batch, when())
        optimizer.zero_grad()
        step.loss.backward()
        learner.after_backward(when())
        optimizer.step()
        learner.after_step(step.keep, when())
        losses.append(float(step.loss.detach()))
    return losses


def test_other_sizes_are_padded_or_resized() -> None:
    batch = Samples(toy_images(2, 48)[:, :, :, :40], {}, torch.arange(2))
    assert begun().draw(batch, when())[1].shape == (2, 9)
    resized = begun(encoder=f"timm(test_vit, pretrained=False, resize={SIDE})")
    assert resized(Samples(toy_images(2), {}, torch.arange(2)), when()).loss.shape == ()


@pytest.mark.parametrize("encoder", ["tiny", "timm(test_resnet, pretrained=False)", "small_clips(widths=[8, 16])"])
def test_encoders_without_patch_tokens_are_refused(encoder: str) -> None:
    name = load_encoder(encoder).card.name
    with pytest.raises(SpecError, match="mae hides the patch tokens of a timm vision transformer, and") as refused:
        begun(encoder=encoder)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mae(1.0)", "share is 1.0"),
        ("mae(width=30)", "divisible by 4"),
        ("mae(heads=7)", "7 heads"),
        ("mae(views=views(2))", "1 view,"),
    ],
)
def test_wrong_arguments(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec, "Method")


def test_inputs_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(SpecError, match="of the 1 patches of 16x16 pixels, 0 would be visible"):
        begun().draw(Samples(toy_images(2), {}, torch.arange(2)), when())
    with pytest.raises(SpecError, match="mae takes one view"):
        begun().read((toy_images(2, SIDE),), images(2), when())
    with pytest.raises(SpecError, match="extra gives mae 2 views, and it takes 1"):
        begun(f"extra({SMALL})")
