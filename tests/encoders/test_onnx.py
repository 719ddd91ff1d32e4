"""ONNX files: the file's own outputs, black-box attacks that work, and a gradient refused before any work."""

import pytest
import torch

from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.measure.stamps import black_box, fixes_weights, stamp
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from hardsight.tasks.classify import OwnHead
from tests.fixtures.encoders import images, one_thread

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
__all__ = ["one_thread"]


@pytest.fixture
def made(tmp_path):
    """A convolution of stride 2 (`maps`), its mean (`pooled`) and three logits; batch and sides as given."""

    def make(shape=("B", 3, "H", "W"), kind=onnx.TensorProto.FLOAT, name="m.onnx"):
        h = onnx.helper
        rng = torch.Generator().manual_seed(1)
        weights = {"k": torch.randn(4, 3, 3, 3, generator=rng), "w": torch.randn(4, 3, generator=rng)}
        nodes = [
            h.make_node("Conv", ["x", "k"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
            h.make_node("GlobalAveragePool", ["maps"], ["mean"]),
            h.make_node("Flatten", ["mean"], ["pooled"]),
            h.make_node("MatMul", ["pooled", "w"], ["logits"]),
        ]
        outputs = [
            h.make_tensor_value_info(one, onnx.TensorProto.FLOAT, None) for one in ("logits", "pooled", "maps", "mean")
        ]
        parts = [h.make_tensor(k, onnx.TensorProto.FLOAT, list(v.shape), v.flatten().tolist()) for k, v in weights.items()]
        graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", kind, list(shape))], outputs, parts)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
        (tmp_path / name).write_bytes(model.SerializeToString())
        return str(tmp_path / name), weights

    return make


def test_the_files_outputs_are_features_and_logits(made):
    path, weights = made()
    x = images(16, 3)
    maps = torch.nn.functional.conv2d((x - 0.5) / 0.25, weights["k"], stride=2, padding=1)
    pooled = load_encoder(f"onnx:{path}(output=pooled, size=16, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])")
    torch.testing.assert_close(pooled(x).pooled, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    dense = load_encoder(f"onnx:{path}(output=maps, size=16, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])")
    torch.testing.assert_close(dense(x).dense, maps, rtol=1e-4, atol=1e-5)
    assert (dense.card.dense_dim, dense.card.stride, pooled.card.dense_dim) == (4, 2, 0)
    own = load_encoder(f"onnx:{path}(logits=True, size=16)")
    assert own.card.classes == 3 and own.classify(own(x)).shape == (3, 3) and own.card.sha256 == pooled.card.sha256
    assert fixes_weights(f"onnx:{path}", stamp(f"onnx:{path}", "Encoder")) and black_box(f"crops('onnx:{path}')")


def test_a_fixed_batch_is_filled_up(made):
    path, _ = made((2, 3, 16, 16))
    open_path, _ = made(name="o.onnx")
    x = images(16, 5)
    fixed, free = load_encoder(f"onnx:{path}"), load_encoder(f"onnx:{open_path}(size=16)")
    torch.testing.assert_close(fixed(x).pooled, free(x).pooled)
    with pytest.raises(SpecError, match="built for 16x16"):
        fixed(images(32))


def test_square_works_and_a_gradient_is_refused_before_any_work(made, monkeypatch):
    path, _ = made()
    encoder = load_encoder(f"onnx:{path}(logits=True, size=16)")
    system = System(encoder, OwnHead(encoder), build("classify(head='own')", "Task"))
    x = images(16, 4)
    y = system.output(x).argmax(1)
    found = build("attack(square(40))", "Attack")(system, x, y, linf(0.3))
    assert found.error.mean() > 0 and (found.x_adv - x).abs().max() <= 0.3 + 1e-6
    monkeypatch.setattr(type(encoder.body), "_once", lambda *args: pytest.fail("it ran"))
    with pytest.raises(
        SpecError, match=r"no gradient passes through m; attack it with a black-box search, such as attack\(square\)"
    ):
        build("attack(pgd(5))", "Attack")(system, x, y, linf(0.3))


def test_a_backward_pass_is_an_error_and_no_zero(made):
    path, _ = made()
    x = images(16, 1).requires_grad_()
    with pytest.raises(SpecError, match="no gradient passes through m.onnx"):
        load_encoder(f"onnx:{path}(size=16)")(x).pooled.sum().backward()


def test_a_plan_leaves_gradient_attacks_out_and_audits_nothing(made):
    from hardsight.measure.plan import plan
    from hardsight.specs.recipe import Recipe

    path, _ = made()
    given = {"encoders": (f"onnx:{path}(size=64, output=pooled)",), "data": ("made",), "tasks": ("classify",), "count": 8}
    found = plan(Recipe(name="r", attacks=("clean", "task", "attack(square(10))"), eps=("8/255",), audit=8, **given))
    assert [one.attack_name for one in found.resolved][-1].startswith("square") and len(found.cells) == 2
    assert found.audited() == [] and "no gradient passes through onnx" in found.left_out[0]


@pytest.mark.parametrize(
    ("shape", "extra", "message"),
    [
        (("B", 1, "H", "W"), "", r"takes 'x' .*1.*one input of images, float \[B, 3, H, W\], is wanted"),
        (("B", 3, "H", "W"), "(output=none)", "has no output 'none'; it has logits, pooled, maps, mean"),
        (("B", 3, "H", "W"), "(output=maps, logits=True)", r"logits \[B, K\] are wanted"),
    ],
)
def test_another_input_or_output_is_one_sentence(made, shape, extra, message):
    path, _ = made(shape)
    with pytest.raises(SpecError, match=message) as found:
        load_encoder(f"onnx:{path}{extra}")
    assert "\n" not in str(found.value)


def test_no_onnx_file(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="is not an ONNX file"):
        load_encoder(f"onnx:{tmp_path}/x.onnx")
    with pytest.raises(WeightsError, match="there is no file"):
        load_encoder(f"onnx:{tmp_path}/y.onnx")
