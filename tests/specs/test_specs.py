"""The spec language and the catalog: conversions between text, call, object and fingerprint."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardsight.core.errors import SpecError
from hardsight.specs import catalog
from hardsight.specs.catalog import build, complete, entries, fingerprint, minimal
from hardsight.specs.recipe import Recipe
from hardsight.specs.syntax import Call, Ratio, eps_of, override, read, read_number, show

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in ("and", "or", "not", "if", "is", "in", "as", "for", "def", "del", "try", "from", "with", "pass", "else", "elif", "class", "while", "yield", "async", "await", "raise", "break", "return", "global", "lambda", "import", "assert", "except", "finally", "continue", "nonlocal", "true", "false"))  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-999, 999), st.floats(-9, 9).map(float), st.text(max_size=8),
    st.integers(1, 255).map(lambda n: Ratio(n, 255)),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.builds(lambda name, kwargs: Call(name, tuple(kwargs.items())), NAMES, st.dictionaries(NAMES, inner, max_size=3)),
    ),
    max_leaves=8,
)


@given(st.builds(lambda name, kwargs: Call(name, tuple(kwargs.items())), NAMES, st.dictionaries(NAMES, VALUES, max_size=3)))
def test_text_and_call_turn_into_each_other(call: Call) -> None:
    assert read(show(call)) == call
    assert show(read(show(call))) == show(call)


def test_numbers_are_kept_as_written() -> None:
    assert show(read("linf(8/255)")) == "linf(8/255)"
    assert read("linf(8/255)").arguments[0][1] == 8 / 255
    assert show(complete("linf(5/255)")) == "linf(eps=5/255)"
    assert repr(eps_of(8 / 255)) == "8/255"
    assert repr(eps_of(0.5 / 255)) == "0.5/255"
    assert repr(eps_of(0.5)) == "0.5"
    assert read_number("2**3 / 255", "eps") == 8 / 255


def test_booleans_may_be_written_as_in_a_recipe() -> None:
    assert complete("pgd(early_exit=true)") == complete("pgd(early_exit=True)")
    assert complete("pgd(early_exit=false)") == complete("pgd")
    assert show(read("pgd(early_exit=true)")) == "pgd(early_exit=True)"


def test_short_form_is_a_call() -> None:
    assert read("timm:vit_tiny_patch16_224(size=64)") == Call("timm", ((0, "vit_tiny_patch16_224"), ("size", 64)))
    assert read("hub:org/repo:entry") == Call("hub", ((0, "org/repo:entry"),))
    assert read("file:/a (b)/c.pt(arch='x(y)', options={'pad': 'same'})").arguments[0] == (0, "/a (b)/c.pt")
    assert read("pgd") == Call("pgd")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("pgd(", "not a spec"),
        ("__import__('os').system('x')", "outside the spec language"),
        ("pgd(steps=[x for x in y])", "outside"),
        ("pgd(*a)", "star"),
        ("3", "not a name"),
        ("pgd(step=1/0)", "zero"),
        ("pgd(step=9**9**9)", "power"),
        ("pgd(step='a'*3)", "not a number"),
        ("pgd(steps=0**-1)", "cannot be computed"),
        ("pgd(steps=1e6**64)", "cannot be computed"),
        ("pgd(" + "-" * 5000 + "1)", "cannot be parsed as a spec"),
        ("file(path='x', options={a: 1, 'b': 2})", "outside"),
    ],
)
def test_what_is_outside_the_language(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("pgd(stepz=3)", "Search", "pgd has no 'stepz'; did you mean 'steps'"),
        ("pdg(3)", "Search", "there is no search 'pdg'; did you mean 'pgd'"),
        ("pgd", "Threat", "'pgd' is a search, but a threat is wanted"),
        ("pgd(steps=1.5)", None, "'steps' should be int, not '1.5'"),
        ("pgd(steps=True)", None, "'steps' should be int"),
        ("pgd(start='here')", None, "'start' should be Literal"),
        ("pgd(1, steps=2)", None, "gets 'steps' twice"),
        ("linf()", None, "linf needs 'eps'"),
        ("linf(1, 2)", None, "at most 1"),
        ("restarts(linf(1))", None, "'linf' is a threat, but a search is wanted"),
        ("attack(pgd, loss=linf(1))", None, "a loss is wanted"),
    ],
)
def test_calls_that_cannot_be_meant(spec: str, kind: str | None, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        complete(spec, kind)
    assert message in str(caught.value)


def test_built_objects_carry_their_spec() -> None:
    for spec in ("pgd(steps=3)", "restarts(pgd(2), 2)", "linf(8/255)", "embed(distance=cosine)", "segment", "far_l2"):
        made = build(spec)
        assert made.spec == complete(spec)
    from hardsight.attacks.search.pgd import pgd

    assert complete(pgd(steps=3).spec) == complete("pgd(steps=3)")  # type: ignore[attr-defined]


def test_a_search_is_an_attack_where_one_is_wanted() -> None:
    assert show(complete("pgd(5)", "Attack")).startswith("attack(search=pgd(steps=5,")


def test_fingerprint_is_of_the_meaning() -> None:
    assert fingerprint("pgd") == fingerprint("pgd(steps=20)") == fingerprint("pgd(step=0.25, steps=20)")
    assert fingerprint("l2(1)") == fingerprint("l2(1.0)") == fingerprint("l2(2/2)")
    assert fingerprint("linf(0.12345678/255)") != fingerprint("linf(0.12345679/255)")
    assert fingerprint("linf(8/255)") == fingerprint("linf(16/510)")
    assert fingerprint("pgd(21)") != fingerprint("pgd")
    assert fingerprint("linf(8/255)") == fingerprint(f"linf({8 / 255!r})")
    assert show(minimal("attack(pgd(20), where='output', loss=ce())")) == "attack(pgd, loss=ce)"


def test_override_reaches_within() -> None:
    call = override(complete("attack(pgd)"), "search.steps", 7)
    assert call["search"]["steps"] == 7
    with pytest.raises(SpecError, match="no nested call 'loss'"):
        override(call, "loss.steps", 1)


def test_every_entry_can_be_described_and_the_catalog_agrees_with_python() -> None:
    import inspect

    for entry in entries().values():
        assert entry.summary, entry.name
        signature = inspect.signature(entry.factory())
        assert [p.name for p in entry.parameters] == list(signature.parameters), entry.name


def test_a_name_registered_twice_names_both_files(monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(path for module, path in catalog._sources() if module == "hardsight.attacks.threats.linf")
    monkeypatch.setattr(catalog, "_sources", lambda: [("one", source), ("two", source)])
    with pytest.raises(SpecError, match="registered twice"):
        catalog.entries.__wrapped__()


def test_defaults_are_frozen() -> None:
    """A changed default changes the meaning of old fingerprints: change it here too, and document it in the changelog."""
    frozen = {
        "pgd": "pgd(steps=20, step=0.25, start='inside', momentum=0.0, keep='best', early_exit=False, nesterov=False, patience=0)",
        "embed": "embed(steps=20, step=0.25, distance='l2')",
        "segpgd": "segpgd(steps=20, step=0.25)",
        "cospgd": "cospgd(steps=20, step=0.25)",
        "depthpgd": "depthpgd(steps=20, step=0.25)",
        "classpgd": "classpgd(steps=20, step=0.25, patience=0)",
        "restarts": "restarts(search=pgd(steps=20, step=0.25, start='inside', momentum=0.0, keep='best', early_exit=False, nesterov=False, patience=0), count=5)",
        "classify": "classify(head='linear', k=20, temperature=0.07, official=[])",
        "segment": "segment(head='linear', window=None, stride=None, official=[])",
        "depth": "depth(head='bins', bins=256, low=0.1, high=None, align=None, crop=None, official=[])",
        "made": "made(size=64, seed=0, train=10000, test=2000, shapes=[])",
        "probe": "probe(epochs=None, lr=None, weight_decay=None, batch=None, images=None, optimizer=None, schedule=None, seeds=1, half=False)",
    }
    for name, text in frozen.items():
        assert show(complete(f"{name}(pgd)" if name == "restarts" else name)) == text


@pytest.mark.slow
def test_light_commands_import_no_torch() -> None:
    for command in (["--help"], ["list", "attacks"], ["list", "encoders"], ["show", "pgd(3)"], ["list", "recipes"]):
        code = (
            f"import sys; sys.argv = ['hardsight', *{command!r}]\nfrom hardsight.cli import main\n"
            "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
            "assert 'torch' not in sys.modules, 'torch was imported'"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)


def test_an_assignment_may_repeat_what_a_recipe_says() -> None:
    """Of several attacks the first has so many steps already; an argument that none has is refused."""
    recipe = Recipe(attacks=("classpgd(steps=3)", "clean"), probe="probe(epochs=2)")
    assert recipe.with_set("attacks.steps=3").attacks == recipe.attacks
    assert recipe.with_set("probe.epochs=2").probe == recipe.probe
    with pytest.raises(SpecError, match="stepz"):
        recipe.with_set("attacks.stepz=3")
