"""Maps the keys of a checkpoint to those of a network: which weights belong to it, how to rename them, what is left out.

`weights_of` uses `layouts` in four steps: it finds the prefixes that have most of the network's weights, picks one network
if a checkpoint has two, renames the keys, and accounts for every remaining key. It raises an error for keys that it cannot
explain. It works for any network: a video encoder's loader can call it too.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from hardsight.core.errors import WeightsError
from hardsight.encoders import layouts
from hardsight.encoders.layouts import NAMES, NORMALIZER, NORMS, PAIRS, RECOMPUTED, ROLES, WRAPPERS
from hardsight.encoders.weights_file import State

Network = Literal["evaluated", "student", "teacher"]
Norm = Literal["normal", "adv", "adv_ce"]
WORDS = {*WRAPPERS, *NAMES, *ROLES, *(word for pair in PAIRS for word in pair[:2] if word)}
HEADS = re.compile("|".join(pattern for pattern, _ in layouts.HEADS))


@dataclass(frozen=True)
class Weights:
    """A network's weights as found in a file.

    state: only this network's weights, by the network's own names. left: what was left out, by name, with the number of
    tensors. prefix: of the keys in the file. role: "student", "teacher" or "" if the file has one network. norm: which of
    several batch norms, or "". naming: how the keys were renamed, or "". needs: an option of the architecture that these
    names require. own: the file's own normalization, "mean" and "std" if it has them.
    """

    state: State
    left: dict[str, int]
    prefix: str = ""
    role: str = ""
    norm: str = ""
    naming: str = ""
    needs: tuple[str, str] | None = None
    own: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """The text for the encoder's card."""
        notes = [f"under '{self.prefix.rstrip('.')}'" if self.prefix else ""]
        notes += [f"its {self.role} network" if self.role else ""]
        notes += [f"batch norm '{self.norm}' of two or more" if self.norm else ""]
        notes += [f"names of {self.naming}" if self.naming else ""]
        listed = ", ".join(f"{name} ({count})" for name, count in self.left.items())
        notes += [f"left out: {listed}" if listed else ""]
        return "; ".join(part for part in notes if part)


def weights_of(
    stored: State,
    net: nn.Module,
    place: object,
    prefix: str = "",
    network: Network = "evaluated",
    norm: Norm | None = None,
    classifier: Sequence[str] = (),
) -> Weights:
    """The weights in `stored` that belong to the network, in any of the layouts of `layouts`.

    prefix: of the wanted keys, if known; all other keys are then left out. network: which of two; "evaluated" is the one
    whose features the layout's authors evaluate: the teacher in self-distillation, the trained network in MoCo and BYOL.
    norm: which of several batch norms; None is "adv". classifier: parameters that may be missing in a file. Raises
    `WeightsError` if nothing fits, if several networks fit and the layout doesn't determine one, or if the file doesn't have
    the requested `network` or `norm`. The strict check of every weight is in `fitted`.
    """
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if name not in classifier and not RECOMPUTED.fullmatch(name)}
    candidates = [prefix.rstrip(".") + "."] if prefix else _prefixes(stored)
    for convert in (False, True):
        found = {one: _named(stored, one, net, wanted, norm, convert) for one in candidates}
        score = {one: _fits(weights.state, wanted) for one, weights in found.items()}
        most = max(score.values())
        if most == len(wanted):
            break
    if not most:
        raise WeightsError(f"{place} has no weights that fit: it has {_listed(stored)}; give prefix=, key= or another arch=")
    copies = [one for one in candidates if score[one] > most / 2]
    copies = [one for one in copies if not any(two.startswith(one) and score[two] > score[one] for two in copies)]
    chosen, role = _chosen(copies, found, network, place)
    weights = found[chosen]
    if norm and weights.norm != norm:
        available = sorted({name for key in stored if (name := _norm_of(key, stored)[1])})
        listed = ", ".join(available) if len(available) > 1 else "one per layer: leave norm= out"
        raise WeightsError(f"{place} has no batch norm '{norm}'; it has {listed}")
    others = _others(stored, chosen, wanted)
    if prefix:
        unknown = [key for key in others if key.startswith("?")]
        others = {key: count for key, count in others.items() if key not in unknown}
        others |= {"outside the prefix": len(unknown)} if unknown else {}
    return replace(weights, role=role, left={**weights.left, **others})


def fitted(net: nn.Module, weights: Weights, arch: str, place: object, classifier: Sequence[str] = ()) -> Weights:
    """The weights without heads, after a check that every weight of the network is among them, except its classifier's.

    classifier: names of the network's parameters that may be missing or of another shape. Raises `WeightsError` with the
    numbers and the first few names of missing, unexpected and wrongly shaped weights.
    """
    wanted = net.state_dict()
    state = weights.state
    free = {name for name in wanted if name in classifier or RECOMPUTED.fullmatch(name)}
    missing = [name for name in wanted if name not in state and name not in free]
    shaped = [name for name in wanted if name in state and state[name].shape != wanted[name].shape and name not in free]
    over = [name for name in state if name not in wanted and not RECOMPUTED.fullmatch(name)]
    heads = Counter(name.split(".")[0] for name in over if HEADS.fullmatch(name.split(".")[0]))
    unexpected = [name for name in over if not HEADS.fullmatch(name.split(".")[0])]
    unexpected += [key for key in weights.left if key.startswith("?")]
    if missing or shaped or unexpected:
        shapes = [f"{name} {list(state[name].shape)} where {list(wanted[name].shape)} is wanted" for name in shaped]
        problems = [
            f"{len(names)} of {total} {what}: {_few(names)}"
            for what, names, total in (
                ("missing", missing, len(wanted)),
                ("unexpected", [name.lstrip("?") for name in unexpected], len(state)),
                ("wrongly shaped", shapes, len(wanted)),
            )
            if names
        ]
        hint = next(
            (h for n in shaped for key, test, h in layouts.HINTS if re.fullmatch(key, n) and test(state[n].shape)), ""
        )
        raise WeightsError(
            f"{place} does not fit {arch}: {'; '.join(problems)}; {hint or 'try another arch=, prefix=, key= or options='}"
        )
    kept = {name: value for name, value in state.items() if name in wanted and value.shape == wanted[name].shape}
    heads += Counter(
        name.split(".")[0] for name in classifier if name in state and name not in {**kept, **dict.fromkeys(over)}
    )
    return replace(weights, state=kept, left={**heads, **weights.left})


def _prefixes(stored: State) -> list[str]:
    """Every prefix of a key that consists of known words, the shortest first."""
    found = {""}
    for key in stored:
        parts = key.split(".")
        for count in range(1, len(parts)):
            if parts[count - 1] not in WORDS:
                break
            found.add(".".join(parts[:count]) + ".")
    return sorted(found, key=lambda one: (one.count("."), one))


def _named(
    stored: State, prefix: str, net: nn.Module, wanted: Mapping[str, torch.Size], norm: Norm | None, convert: bool
) -> Weights:
    """The weights under the prefix, with one of several batch norms, without the normalization's buffers, renamed."""
    state = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    state = {layouts.INNER.sub("", key): value for key, value in state.items()}
    state, left, norm_taken = _one_norm(state, norm)
    state = {key: value for key, value in state.items() if not _normalizes(key, value)}
    if hasattr(net, "fc") and any(key.endswith(layouts.MADRY) for key in stored):
        state = {re.sub(r"^linear\.", "fc.", key): value for key, value in state.items()}
    taken, naming, needs = state, "", None
    best = _fits(state, wanted)
    if len(state) >= len(wanted) / 3:
        for one in layouts.NAMINGS:
            if best < len(wanted) and (fit := _fits(renamed := _renamed(state, one.rules, wanted), wanted)) > best:
                taken, naming, needs, best = renamed, one.name, one.needs, fit
        if convert and (converted := _converted(taken, net)) and _fits(converted, wanted) > best:
            left |= {f"?{key}": 1 for key in _lost(taken, converted)}
            taken, naming = converted, f"{naming} and timm's converter" if naming else "timm's converter"
    return Weights(taken, left, prefix, "", norm_taken, naming, needs, _own(stored, prefix))


def _own(stored: State, prefix: str) -> dict[str, tuple[float, ...]]:
    """The normalization stored in the network or in a module before it; the innermost one, if there are several."""
    words = prefix.split(".")[:-1]
    for count in range(len(words), -1, -1):
        before = "".join(f"{word}." for word in words[:count])
        own = {
            kind: tuple(float(str(v)) for v in value.flatten().float().numpy())  # 0.485 as it is written in float32
            for key, value in stored.items()
            if key.startswith(before) and (kind := _normalizes(key.removeprefix(before), value))
        }
        if own:
            return own
    return {}


def strays(stored: State) -> list[str]:
    """Keys with three values that look like a normalization, but of no known name."""
    parts = {key: key.split(".") for key, value in stored.items() if value.numel() == 3}
    known = {key for key, words in parts.items() if _normalizes(".".join(words[-2:]), stored[key])}
    return [
        key for key, words in parts.items() if re.fullmatch(r"(new_)?(mean|std|mu|sigma)", words[-1]) and key not in known
    ]


def _normalizes(key: str, value: Tensor) -> str:
    """Whether a key is of a normalization, of 3 values: "mean", "std" or ""."""
    match = NORMALIZER.fullmatch(key) if value.numel() == 3 else None
    return {"mu": "mean", "sigma": "std"}.get(match[1], match[1]) if match else ""


def _renamed(state: State, rules: Sequence[tuple[str, str]], wanted: Mapping[str, torch.Size]) -> State:
    """Keys renamed by the rules; a value that only lacks leading dimensions of size 1 ([D] for [1, 1, D]) gets them."""
    renamed = {}
    for key, value in state.items():
        for pattern, instead in rules:
            key = re.sub(pattern, instead, key)
        shape = wanted.get(key)
        if shape is not None and value.dim() < len(shape) and shape == (*[1] * (len(shape) - value.dim()), *value.shape):
            value = value.view(shape)
        renamed[key] = value
    return renamed


def _converted(state: State, net: nn.Module) -> State:
    """The state converted by timm's own converter for the network's family; empty if there is none or it fails."""
    converter = getattr(sys.modules.get(type(net).__module__), "checkpoint_filter_fn", None)
    if converter is None:
        return {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return converter(dict(state), net)
    except Exception:
        return {}  # a converter fails on keys of another family; `fitted` then says which keys those are


def _lost(state: State, converted: State) -> list[str]:
    """Keys with non-zero values that a converter dropped silently: DINOv3's biases for a network without biases."""
    kept = {value.untyped_storage().data_ptr() for value in converted.values()}
    return [
        key
        for key, value in state.items()
        if value.untyped_storage().data_ptr() not in kept
        and key not in converted
        and not HEADS.fullmatch(key.split(".")[0])
        and not RECOMPUTED.fullmatch(key)
        and bool(value.count_nonzero())
    ]


def _one_norm(state: State, norm: Norm | None) -> tuple[State, dict[str, int], str]:
    """The state with one of several batch norms, the count of what was left out of the others, and the one's name."""
    of = {key: _norm_of(key, state) for key in state}
    available = {name for _, name in of.values() if name}
    if len(available) < 2:
        return {of[key][0]: value for key, value in state.items()}, {}, ""
    taken = norm if norm in available else "adv"
    kept = {plain: state[key] for key, (plain, name) in of.items() if name in ("", taken)}
    return kept, {"other batch norms": len(state) - len(kept)}, taken


def _norm_of(key: str, state: State) -> tuple[str, str]:
    """The key without its batch norm's name, and that name; "" for keys that don't belong to one of several batch norms."""
    if match := re.search(r"\.bn_list\.(\d)\.", key):
        return key.replace(match[0], "."), next((name for name, at in NORMS.items() if at == match[1]), match[1])
    if re.search(r"\bbn\d?_adv\.", key):
        return key.replace("_adv.", "."), "adv"
    return key, "normal" if re.sub(r"\b(bn\d?)\.", r"\1_adv.", key) in state.keys() - {key} else ""


def _chosen(copies: Sequence[str], found: Mapping[str, Weights], network: Network, place: object) -> tuple[str, str]:
    """The prefix of the requested network, and its role."""
    for pair in PAIRS:
        two = {
            role: [one for one in copies if _is(one, word)] for role, word in (("student", pair[0]), ("teacher", pair[1]))
        }
        if all(two.values()):
            role = pair.evaluated if network == "evaluated" else network
            return two[role][0], role
    roles = {one: next((ROLES[word] for word in one.split(".") if word in ROLES), "") for one in copies}
    if network != "evaluated" and not (copies := [one for one in copies if roles[one] == network]):
        listed = ", ".join(f"'{one.rstrip('.')}'" + (f" ({role})" if role else "") for one, role in roles.items())
        raise WeightsError(
            f"{place} has no {network} network among its prefixes {listed}; leave network= out or give prefix="
        )
    first, *others = copies
    for other in others:
        mine, theirs = found[first].state, found[other].state
        if not all(torch.equal(value, theirs[key]) for key, value in mine.items() if key in theirs):
            names = ", ".join(f"'{one.rstrip('.')}'" for one in copies)
            raise WeightsError(f"{place} holds {len(copies)} networks that fit, {names}; choose one with prefix=")
    return first, roles[first]


def _is(prefix: str, word: str) -> bool:
    """Whether the prefix contains that word; the empty word matches a prefix without any network's word."""
    words = prefix.split(".")
    return word in words if word else not any(part in ROLES for part in words)


def _others(stored: State, chosen: str, wanted: Mapping[str, torch.Size]) -> dict[str, int]:
    """What the keys outside the chosen prefix are, counted: heads, other networks, a text encoder; '?KEY' if unknown."""
    counted: Counter[str] = Counter()
    for key in stored:
        if key.startswith(chosen) or RECOMPUTED.fullmatch(key):
            continue
        parts = key.split(".")
        place = next((i for i, part in enumerate(parts) if part not in WORDS or HEADS.fullmatch(part)), len(parts) - 1)
        before, rest = parts[:place], ".".join(parts[place:])
        other = next((word for word in before if word in ROLES), None)
        if _normalizes(rest, stored[key]):
            continue
        if HEADS.fullmatch(parts[place]):
            counted[parts[place]] += 1
        elif other or ("attacker" in before and chosen + rest in stored):
            counted[other or "another copy, attacker"] += 1
        elif any(".".join(parts[i:]) in wanted for i in range(place + 1)):
            counted[f"another copy{', ' if before else ''}{'.'.join(before)}"] += 1
        elif layouts.TEXT.fullmatch(parts[place]):
            counted["text tower"] += 1
        else:
            counted[f"?{key}"] += 1
    return dict(counted)


def _fits(state: State, wanted: Mapping[str, torch.Size]) -> int:
    return sum(wanted.get(key) == value.shape for key, value in state.items())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", .." if len(names) > 3 else "")


def _listed(stored: Mapping[str, Tensor]) -> str:
    tops = list(dict.fromkeys(key.split(".")[0] for key in stored))
    return f"{len(stored)} tensors under {', '.join(tops[:6])}" + (" .." if len(tops) > 6 else "")
