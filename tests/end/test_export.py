"""What is exported is read back to the same bits, by the library it is for and by `hf:`; its card says what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hardsight.core.errors import HardsightError, SpecError, WeightsError
from hardsight.data.base import DataCard
from hardsight.encoders import load_encoder
from hardsight.measure.export import Form, export_encoder
from hardsight.report.records import every_eval_ever, robustbench
from hardsight.report.results import grid
from hardsight.training.engine.export import write_encoder
from hardsight.training.engine.recipe import TrainingRecipe
from tests.end.test_bench import FAST, inside
from tests.fixtures.boards import fabricated

TINY = "tiny(widths=[8, 12, 16, 20], layers=[1, 3], classes=5)"
PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}


def same(spec: str, folder: Path, side: int = 0) -> torch.Tensor:
    """That hf:FOLDER is the encoder of the spec, bit by bit, card included; some images."""
    before, after = load_encoder(spec), load_encoder(f"hf:{folder}")
    x = torch.rand(2, 3, side or before.card.size, side or before.card.size, generator=torch.Generator().manual_seed(0))
    one, two = before(x, (0, 1)), after(x, (0, 1))
    assert torch.equal(one.pooled, two.pooled) and one.extent == two.extent
    assert one.dense is not None and two.dense is not None and torch.equal(one.dense, two.dense)
    assert all(torch.equal(a, b) for a, b in zip(one.layers, two.layers, strict=True))
    assert before.card.sha256 == after.card.sha256
    kept = (
        "name",
        "arch",
        "dim",
        "dense_dim",
        "stride",
        "size",
        "resize",
        "classes",
        "mean",
        "std",
        "preprocess",
        "parameters",
    )
    assert {key: getattr(before.card, key) for key in kept} == {key: getattr(after.card, key) for key in kept}
    if before.card.classes:
        assert torch.equal(before.classify(one), after.classify(two))
    return x


def blocks(folder: Path) -> list[str]:
    """The Python of the card, with the folder's path filled in."""
    text = (folder / "README.md").read_text()
    return [one.replace("FOLDER", str(folder)) for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def ran(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path, **names: Any) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    exec(code, names)
    return names


@pytest.mark.parametrize(
    ("spec", "to"),
    [
        ("timm:test_vit(pretrained=False, size=96, layers=[0, -1], pooled=mean)", "timm"),
        ("timm:test_resnet(pretrained=False, resize=64)", "timm"),
        ("timm:test_vit(pretrained=False, size=96)", "hf"),
    ],
)
def test_timm_reads_what_is_exported_for_it(spec: str, to: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    files = export_encoder(spec, to, folder)
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    x = same(spec, folder)
    encoder = load_encoder(spec)
    pixels = (encoder._fit(x)[0] - encoder.mean) / encoder.std
    code, *other, ours = blocks(folder)
    with torch.no_grad():
        for one in other:
            found = ran(one, monkeypatch, folder, pixels=pixels)
            assert torch.equal(found["features"], encoder.body.model.forward_features(pixels))
        assert len(other) == (to == "hf")
        found = ran(code, monkeypatch, folder, pixels=pixels)
        assert torch.equal(found["model"].forward_features(pixels), encoder.body.model.forward_features(pixels))
        assert tuple(found["model"].pretrained_cfg["mean"]) == encoder.card.mean
        assert torch.equal(ran(ours, monkeypatch, folder, images=x)["features"].pooled, encoder(x).pooled)


def test_a_checkpoints_own_normalization_goes_with_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    net = load_encoder("timm:test_vit(pretrained=False)").body.model
    save_file({f"module.{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    spec = f"file('{tmp_path}/w.safetensors', arch='test_vit', mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], size=128)"
    with pytest.raises(SpecError, match="no licence of the weights of w is known; give it with --licence"):
        export_encoder(spec, "timm", tmp_path / "out")
    export_encoder(spec, "timm", tmp_path / "out", licence="MIT")
    same(spec, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("kind", ["Dinov2Config", "CLIPVisionConfig", "ResNetConfig"])
def test_transformers_reads_what_is_exported_for_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    four = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8, "layer_type": "basic"}
    config = getattr(transformers, kind)(**(four if kind == "ResNetConfig" else PLAIN | {"image_size": 64}))
    torch.manual_seed(0)
    (transformers.CLIPVisionModel(config) if "CLIP" in kind else transformers.AutoModel.from_config(config)).save_pretrained(
        tmp_path / "own"
    )
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.3] * 3,
        "image_std": [0.2] * 3,
        "do_normalize": True,
    }
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = f"hf('{tmp_path}/own', layers=[0, -1], pooled=mean)"
    export_encoder(spec, "hf", tmp_path / "out", licence="Apache-2.0")
    x = same(spec, tmp_path / "out", 64)
    encoder = load_encoder(spec)
    assert encoder.card.mean == (0.3, 0.3, 0.3)
    pixels = (x - encoder.mean) / encoder.std
    with torch.no_grad():
        found = ran(blocks(tmp_path / "out")[0], monkeypatch, tmp_path, pixels=pixels)
        assert torch.equal(found["features"], encoder.body.model(pixel_values=pixels).last_hidden_state)


@pytest.mark.parametrize(
    "spec", [TINY, "zoo:made_deacl", "tiny_vit(depth=2, width=32, heads=2)", "tv:resnet18(weights=None, stem=cifar)"]
)
def test_torch_alone_reads_the_graph(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    export_encoder(spec, "safetensors", folder, licence="MIT")
    x = same(spec, folder)
    code, ours = blocks(folder)
    assert "hardsight" not in code
    with torch.no_grad():
        for images in (x, torch.rand(3, 3, 48, 80)):
            found, wanted = ran(code, monkeypatch, folder, images=images), load_encoder(spec)(images)
            assert torch.equal(found["pooled"], wanted.pooled) and torch.equal(found["dense"], wanted.dense)
        assert torch.equal(ran(ours, monkeypatch, folder, images=x)["features"].pooled, load_encoder(spec)(x).pooled)


def test_a_run_says_how_it_was_trained(tmp_path: Path) -> None:
    recipe = TrainingRecipe("mine", TINY, "simclr(temperature=0.3)", "cifar10:PATH", epochs=7, seed=3)
    data = DataCard("cifar10", ("label",), (32, 32), licence="MIT")
    encoder = load_encoder(TINY)
    write_encoder(tmp_path / "run" / "encoder.safetensors", encoder, None, recipe, data, {"epoch": 7})
    spec = f"run:{tmp_path}/run"
    export_encoder(spec, "safetensors", tmp_path / "out", licence="cc-by-4.0")
    same(spec, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Trained with simclr(temperature=0.3) on cifar10:PATH" in text and "epoch 7 of 7" in text and "seed: 3" in text
    assert "license: cc-by-4.0" in text and "nothing is known of its robustness" in text


def test_what_cannot_hold_an_encoder_is_said_before_anything_is_written(tmp_path: Path) -> None:
    for to in ("timm", "hf"):
        with pytest.raises(
            SpecError, match="does not have; possible: --to safetensors, which hf:FOLDER and plain torch read"
        ):
            export_encoder(TINY, to, tmp_path / "out", licence="MIT")
    with pytest.raises(SpecError, match="under MIT; --licence can't change that"):
        export_encoder("zoo:made_deacl", "safetensors", tmp_path / "out", licence="Apache-2.0")
    assert not (tmp_path / "out").exists()
    done = inside("export", "zoo:made_deacl", "--to", "csv", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "an encoder's --to 'csv' is unknown" in done.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(SpecError, match="not empty"):
        export_encoder("zoo:made_deacl", "safetensors", tmp_path / "out")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    export_encoder("timm:test_resnet(pretrained=False)", "timm", tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="is not the exported file"):
        load_encoder(f"hf:{tmp_path}/out")


@pytest.mark.slow
def test_the_card_has_the_stores_numbers(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    store, out = tmp_path / "store", tmp_path / "out"
    words = [
        "--encoder",
        "zoo:made_deacl",
        "--task",
        "classify",
        "--attack",
        "embed(steps=1)",
        "--attack",
        "task",
        "--count",
        "8",
    ]
    measured = inside(
        "bench", *FAST, *words, "--store", str(store), "--json", "--set", "attacks.steps=1", "--set", "audit=2"
    )
    assert measured.returncode == 0, measured.stderr
    done = inside("export", "zoo:made_deacl", "--to", "safetensors", "--out", str(out), "--store", str(store))
    assert done.returncode == 0 and str(out / "README.md") in done.stdout, done.stderr
    card = ModelCard.load(out / "README.md")
    (numbers,) = json.loads(measured.stdout)["results"].values()
    found = {result.metric_name: result for result in card.data.eval_results}
    assert card.data.license == "mit" and card.data.model_name == "made_deacl" and len(found) >= 4
    clean = found["accuracy, clean"]
    assert clean.metric_value == pytest.approx(numbers["clean"]["accuracy"]) and clean.metric_args["n"] == 8
    assert clean.metric_args["interval_95"] == pytest.approx(
        [numbers["clean"]["accuracy_low"], numbers["clean"]["accuracy_high"]], abs=1e-6
    )
    assert any("worst case over" in name for name in found)
    assert re.search(r"Audit of classify on made.*, 2 images: (pass|warn|fail)", card.text)
    other = inside("export", "zoo:made_simclr", "--to", "safetensors", "--out", str(tmp_path / "b"), "--store", str(store))
    assert other.returncode == 2 and "no finished result of made_simclr with these weights" in other.stderr


SOME, TEXTS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}


def shape(needed: str = "", strict: bool = False, **fields: Any) -> dict[str, Any]:
    more = {"additionalProperties": False} if strict else {}
    return {"type": "object", "required": needed.split(), "properties": fields, **more}


RECORD = shape(
    "schema_version evaluation_id retrieved_timestamp source_metadata model_info eval_library evaluation_results",
    strict=True,
    schema_version=SOME,
    evaluation_id=SOME,
    evaluation_timestamp=SOME,
    retrieved_timestamp=SOME,
    source_metadata=shape(
        "source_type source_organization_name evaluator_relationship",
        source_name=SOME,
        source_type={"enum": ["documentation", "evaluation_run"]},
        source_organization_name=SOME,
        evaluator_relationship={"enum": ["first_party", "third_party", "collaborative", "other"]},
    ),
    eval_library=shape("name version", name=SOME, version=SOME, additional_details=TEXTS),
    model_info=shape(
        "name id additional_details",
        name=SOME,
        id=SOME,
        developer=SOME,
        additional_details={
            **shape(
                "deployment_type model_availability",
                deployment_type={"enum": ["self_deployed", "externally_managed", "unknown"]},
                model_availability={"enum": ["open_weights", "closed_weights", "unknown"]},
            ),
            "additionalProperties": {"type": "string"},
        },
    ),
    evaluation_results={
        "type": "array",
        "minItems": 1,
        "items": shape(
            "evaluation_name source_data metric_config score_details",
            evaluation_result_id=SOME,
            evaluation_name=SOME,
            evaluation_timestamp=SOME,
            source_data=shape("dataset_name source_type", dataset_name=SOME, source_type={"const": "other"}),
            metric_config=shape(
                "lower_is_better score_type min_score max_score",
                lower_is_better={"type": "boolean"},
                score_type={"const": "continuous"},
                min_score={"type": "number"},
                max_score={"type": "number"},
                metric_id=SOME,
            ),
            score_details=shape(
                "score",
                score={"type": "number"},
                details=TEXTS,
                uncertainty=shape(
                    confidence_interval=shape("lower upper", lower={"type": "number"}, upper={"type": "number"}),
                    num_samples={"type": "integer"},
                ),
            ),
        ),
    },
)
"""What Every Eval Ever's schema of version 0.3.0 asks of such a record, as facts."""


def test_records_of_every_eval_ever(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    table = grid(fabricated(tmp_path / "store", ["a", "b/../c"], n=20, pictures=False).cells())
    made = dict(every_eval_ever(table, "A lab", "third_party"))
    assert made == dict(every_eval_ever(table, "A lab", "third_party")), "the same results, the same records"
    assert len(made) == 2
    for path, record in made.items():
        jsonschema.validate(record, RECORD)
        assert re.fullmatch(
            r"data/hardsight/[\w.-]+/[\w.-]+/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.json", path
        )
        assert ".." not in path
        for one in record["evaluation_results"]:
            span, score = one["score_details"]["uncertainty"]["confidence_interval"], one["score_details"]["score"]
            assert span["lower"] <= score <= span["upper"] and one["score_details"]["uncertainty"]["num_samples"] == 20
            assert one["metric_config"]["lower_is_better"] == (one["metric_config"]["metric_id"] == "rmse")
    names = [one["evaluation_name"] for one in next(iter(made.values()))["evaluation_results"]]
    assert len(set(names)) == len(names) and any("worst case over" in name for name in names)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "more": 1}, RECORD)


def test_robustbench_has_only_what_it_would_have(tmp_path: Path) -> None:
    with pytest.raises(HardsightError, match="accuracy, clean and under AutoAttack"):
        dict(robustbench(grid(fabricated(tmp_path / "a", ["one"], n=20, pictures=False).cells())))
    store = fabricated(tmp_path / "b", ["one"], ("classify",), eps=(8,), n=20, pictures=False, attack_name="AutoAttack")
    for cell in store.cells():  # the clean cells keep their name
        if cell.what["column"] == "clean":
            path = cell.path / "cell.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "attack_name": "clean"}))
    made = dict(robustbench(grid(store.cells())))
    (path, record), *_ = made.items()
    assert path == "model_info/cifar10/Linf/one_8-255.json" or path.startswith("model_info/cifar10/Linf/one")
    assert record["eps"] == "8/255" and re.fullmatch(r"\d+\.\d\d", record["clean_acc"]) and record["dataset"] == "cifar10"
    assert float(record["autoattack_acc"]) <= float(record["clean_acc"]) and "20 images; 95% intervals" in record["footnote"]


def test_a_stores_tables(tmp_path: Path) -> None:
    store = fabricated(tmp_path / "store", ["one"], ("classify",), n=20, pictures=False).path
    report = inside("report", str(store), "--out", str(tmp_path / "report"))
    assert report.returncode == 0, report.stderr
    for to, name in (("csv", "report.csv"), ("latex", "report.tex")):
        done = inside("export", str(store), "--to", to, "--out", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_text() == (tmp_path / "report" / name).read_text()
    done = inside("export", str(store), "--to", "eee", "--out", str(tmp_path / "eee"), "--json")
    assert [Path(one).exists() for one in json.loads(done.stdout)] == [True]
    refused = inside("export", str(store), "--to", "hf", "--out", str(tmp_path / "x"))
    assert refused.returncode == 2 and "a store's --to 'hf' is unknown" in refused.stderr
