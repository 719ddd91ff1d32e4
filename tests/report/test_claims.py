"""Claims: every shipped file is read, values are those of the sources (typed here from them), and wrong files are refused."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from hardsight.cli.base import app
from hardsight.core.errors import SpecError
from hardsight.encoders.zoo import known
from hardsight.measure import protocol
from hardsight.report.claims import HERE, PROTOCOLS, Claim, Finding, found, load, shipped

TYPED = {
    # typed from paper 002's tables: clean / EmbedAttack / downstream attack
    "paper002/cifar10/dinov2_vits14": (0.94, 0.01, 0.00),
    "paper002/stl10/dinov2_vitb14": (0.99, 0.20, 0.00),
    "paper002/cifar100/dino_vitb16_deacl": (0.72, 0.55, 0.03),
    "paper002/ade20k/dino_vitb16": (0.27, 0.01, 0.01),
    "paper002/cityscapes/dino_vitb16_deacl": (0.36, 0.31, 0.03),
    "paper002/voc/dinov2_vits14": (0.83, 0.00, 0.01),
    "paper002/nyuv2/dinov2_vitb14": (0.46, 1.29, 2.74),
    "paper002/nyuv2/dino_vitb16_deacl": (0.68, 0.92, 1.71),
    # from CF-AMC-SSL's README: clean / PGD 4 / PGD 8
    "paper003/cifar10/cf_amc_ssl": (0.7588, 0.5597, 0.3334),
    "paper003/cifar10/patch_emp_pgd": (0.61, 0.3765, 0.1695),
    "paper003/cifar100/crop_emp_pgd": (0.5171, 0.3388, 0.1935),
    "emp_ssl/cifar100/epochs10": (0.678,),
    # from model_info/imagenet/Linf/Standard_R50.json: clean_acc, autoattack_acc
    "robustbench/imagenet-linf/resnet50": (0.7652, 0.0),
    # from RobustVLM's README: clean / 2 / 4
    "fare/zero-shot/fare4_clip_vitl14": (0.611, 0.459, 0.324),
    "fare/zero-shot/tecoa2_clip_vitl14": (0.600, 0.436, 0.270),
    # from DeACL's README: AA, RA, SA
    "deacl/slf/deacl_resnet18_paper": (0.4531, 0.5395, 0.8017),
    "deacl/aff-readme/deacl_resnet18": (0.5075, 0.5423, 0.8364),
    # LORE: clean / 1 / 2 / 4 / 8, and ADE20K clean / EmbedAttack
    "lore/imagenet/vits14_lore8": (0.751, 0.559, 0.488, 0.368, 0.137),
    "lore/ade20k/vits14_fare8": (0.23, 0.15),
    # the RobustSSL benchmark's SLF: AA, corruptions, clean
    "robustssl_benchmark/cifar10-slf/air": (0.4517, 0.7051, 0.7808),
    "robustssl_benchmark/cifar10-slf/rocl": (0.2612, 0.7790),
    # SEA: clean / 4 / 8
    "robust_segmentation/voc/upernet_convnext_s": (0.766, 0.662, 0.380),
    # two READMEs
    "published_nets/resnet4b/resnet4b": (0.7720,),
    "published_nets/resnet4b-pgd/resnet4b": (0.6975, 0.6141),
}
FILE = """source = "s"
title = "t"
reference = "r"
[encoders.net]
title = "a net"
specs = ["zoo:dino_vitb16"]
[tables.one]
place = "table 1"
task = "classify"
data = "cifar10"
metric = "accuracy"
unit = "fraction"
protocol = "paper002-classification"
version = "1"
columns = [["clean", "clean"], ["task", "pgd", "linf", "8/255"]]
[tables.one.rows]
net = ["0.94", "0.0"]
"""


def read(tmp_path, text: str, name: str = "s.toml") -> tuple:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return load([tmp_path / name])


@pytest.mark.parametrize("name", TYPED)
def test_values_are_those_of_the_source(name):
    claims = [one for one in found(name) if isinstance(one, Claim)]
    assert tuple(one.value for one in claims) == pytest.approx(TYPED[name])


def test_every_file_gives_claims_or_findings_with_their_source():
    claims, findings = shipped()
    assert {one.name.partition("/")[0] for one in (*claims, *findings)} == {path.stem for path in HERE.glob("*.toml")}
    assert all(one.source and one.title and one.reference and one.place for one in (*claims, *findings))
    assert {one.source for one in findings} >= {"paper 000", "paper 001", "paper 002", "paper 003"}
    assert not {one.source for one in claims} & {"paper 000", "paper 001"}  # of which no table value is known


def test_specs_of_the_zoo_exist_and_every_protocol_has_one_reading():
    names = {f"zoo:{card['name']}" for card in known()}
    claims, _ = shipped()
    assert {spec for one in claims for spec in one.specs if spec.startswith("zoo:")} <= names
    fitting = [
        (one.protocol, one.task, one.data, one.attack, one.eps_text, spec)
        for one in claims
        if one.protocol
        for spec in one.specs
    ]
    assert len(fitting) == len(set(fitting))  # a cell never has two claims


def test_protocols_are_those_that_are_shipped():
    versions = {name: str(protocol.load(name).version) for name in protocol.names()}
    assert sorted(PROTOCOLS) == sorted(versions)
    assert {(one.protocol, one.version) for one in shipped()[0] if one.protocol} <= set(versions.items())


def test_the_last_digit_says_how_far_a_value_was_rounded(tmp_path):
    percent = FILE.replace('"fraction"', '"%"').replace('["0.94", "0.0"]', '["94", "0.25"]')
    for text, values in ((FILE, (0.94, 0.005, 0.0, 0.05)), (percent, (0.94, 0.005, 0.0025, 0.00005))):
        claims, _ = read(tmp_path, text)
        assert [number for one in claims for number in (one.value, one.half)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('place = "table 1"', 'plase = "table 1"', "no 'plase'; did you mean 'place'?"),
        ('specs = ["', 'spec = ["', "no 'spec'; did you mean 'specs'?"),
        ('source = "s"', 'sources = "s"', "no 'sources'; did you mean 'source'?"),
        ('"fraction"', '"fractions"', "unit 'fractions' is unknown; did you mean 'fraction'?"),
        ('"fraction"', '"m"', "accuracy is in %, not in m"),
        ('"paper002-classification"', '"paper02-classification"', "did you mean 'paper002-classification'?"),
        ('"classify"', '"clasify"', "did you mean 'classify'?"),
        ('"cifar10"', '"cfiar10"', "did you mean 'cifar10'?"),
        ('"accuracy"', '"acuracy"', "did you mean 'accuracy'?"),
        ('"pgd"', '"segpdg"', "did you mean 'segpgd'?"),
        ('"linf"', '"linff"', "did you mean 'linf'?"),
        ('"8/255"', '"eight"', "eps 'eight' is not a number"),
        ('"0.94"', '"94"', "s/one/net/clean is 94 fraction; it must be in [0, 1]"),
        ('"0.94"', '"-0.1"', "must be in [0, 1]"),
        ('"0.94"', "0.94", "write it as text"),
        ('"0.94"', '"a lot"', "is not a number"),
        ('["0.94", "0.0"]', '["0.94"]', "it must have 2 values"),
        ("net = [", "nett = [", "the row's encoder 'nett' is unknown; did you mean 'net'?"),
        ('["task", "pgd", "linf", "8/255"]', '["clean", "pgd", "linf", "8/255"]', "column clean twice"),
        ('["task", "pgd", "linf", "8/255"]', '["task", "pgd"]', "an attack needs a norm and an eps"),
        ('version = "1"\n', "", "needs a protocol and its version, or else a setting"),
        ('version = "1"', "version = 1", "it must be of type str"),
        ('title = "t"\n', "", "lacks 'title'"),
        ('[tables.one.rows]\nnet', '[tables.one.rows]\nnet = ["0.9", "0.1"]\nnet', "gives a name twice"),
        ("[encoders.net]", '[encoders.idle]\ntitle = "x"\n[encoders.net]', "encoder idle is in no table"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_nearest_name(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        read(tmp_path, FILE.replace(old, new, 1))
    assert "s.toml" in str(caught.value)


def test_a_figure_given_twice_is_refused(tmp_path):
    again = FILE + FILE[FILE.index("[tables.one]") :].replace("tables.one", "tables.two")
    with pytest.raises(SpecError, match=re.escape("s/two/net/clean is there twice, as s/one/net/clean")):
        read(tmp_path, again)


def test_a_file_of_findings_alone_is_read(tmp_path):
    text = FILE[: FILE.index("[encoders")] + '[findings.f]\nplace = "abstract"\nsays = "so"\ncompare = "this"\n'
    claims, (finding,) = read(tmp_path, text)
    assert claims == () and finding == Finding("s/f", "s", "t", "r", "abstract", "so", "this")


def test_claims_are_listed_and_shown_and_an_unknown_one_names_the_nearest():
    run = CliRunner()
    listed = run.invoke(app, ["list", "claims", "--json"]).output
    assert '"paper002/voc/dinov2_vits14"' in listed and '"paper000/dense"' in listed
    shown = run.invoke(app, ["show", "paper002/cifar10/dinov2_vits14"]).output
    for part in ("0.94", "0.01", "embed, linf 8/255", "2407.12588", "paper002-classification", "zoo:dinov2_vits14"):
        assert part in shown
    assert "vanishes" in run.invoke(app, ["show", "paper000/dense"]).output
    with pytest.raises(SpecError, match="did you mean 'paper002/cifar10/dinov2_vits14'"):
        run.invoke(app, ["show", "paper002/cifar10/dinov2_vits15"], standalone_mode=False, catch_exceptions=False)


def test_claims_are_read_without_torch():
    code = "import sys; from hardsight.report.claims import shipped; shipped(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
