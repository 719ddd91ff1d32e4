"""Checkpoints as the authors of each method write them, around a small network whose features are known.

Each layout is a function of a seed that gives a `Made`. The key names are those of the repositories named in
`hardsight.encoders.layouts`, against whose model code the reading was held too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from tests.checkpoint_made import (
    CHILDREN,
    CIFAR,
    IMAGENET,
    ONE,
    OPTIMIZER,
    RESNET,
    VIT,
    Made,
    network,
    pair,
    sequence,
    single,
    under,
)


def dino(seed: int) -> Made:
    """student and teacher as dictionaries of their own, DDP around the student alone; arguments in a Namespace."""
    student, teacher = network(VIT, seed), network(VIT, seed + 1)
    head = {"head.mlp.0.weight": ONE, "head.last_layer.weight_g": ONE}
    stored = {
        "student": {**under("module.backbone.", student), **under("module.", head, ())},
        "teacher": {**under("backbone.", teacher), **head},
        "optimizer": OPTIMIZER,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": ONE},
    }
    left = ("student (", "head (4")
    return Made(stored, teacher, VIT, left, "teacher.backbone.patch_embed.proj.weight", ("student", student))


def ibot(seed: int) -> Made:
    made = dino(seed)
    made.stored["student"]["module.backbone.masked_embed"] = ONE
    made.stored["ibot_loss"] = made.stored.pop("dino_loss")
    made.left = ("student (", "masked_embed (1)")
    return made


def jepa(seed: int) -> Made:
    """A class-token-free transformer; predictor and optimizer beside the two encoders."""
    told = {"arch": "vit_huge_patch14_gap_224", "size": 64, "options": {**VIT["options"], "patch_size": 16}}
    context, target = network(told, seed), network(told, seed + 1)
    stored = {
        "encoder": under("module.", context),
        "predictor": {"module.predictor_embed.weight": ONE, "module.mask_token": ONE},
        "target_encoder": under("module.", target),
        "opt": OPTIMIZER,
        "scaler": None,
        "epoch": 3,
    }
    return Made(
        stored, target, told, ("predictor (2)",), "target_encoder.module.blocks.0.norm1.weight", ("student", context)
    )


def dinov2(registers: int, chunks: bool) -> Callable[[int], Made]:
    arch = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    told = {"arch": arch, "size": 70, "options": {"embed_dim": 48, "depth": 4, "num_heads": 2}}

    def make(seed: int) -> Made:
        net = network(told, seed)
        state = under("", net)
        if registers:  # timm adds the class token's position to the class token; the authors keep them apart
            place = torch.linspace(-1, 1, 48).square().view(1, 1, 48)
            state["register_tokens"] = state.pop("reg_token")
            state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
            state["cls_token"] = state["cls_token"].clone()
            net.cls_token.data.add_(place)
        state["mask_token"] = ONE
        if chunks:
            parts = [(key, key.split(".", 2)) for key in state if key.startswith("blocks.")]
            state |= {f"blocks.{int(part[1]) // 2}.{part[1]}.{part[2]}": state.pop(key) for key, part in parts}
            body = {**under("backbone.", state), "dino_head.mlp.0.weight": ONE, "ibot_head.last_layer.weight": ONE}
            first, left = "teacher.backbone.blocks.1.2.norm1.weight", ("dino_head (1)", "ibot_head (1)")
            return Made({"teacher": body}, net, told, left, first, side=70)
        return Made(state, net, told, (), "blocks.2.norm1.weight", side=70)

    return make


def dinov3(seed: int) -> Made:
    told = {
        "arch": "vit_small_patch16_dinov3_qkvb",
        "options": {"embed_dim": 48, "depth": 2, "num_heads": 2, "global_pool": "token"},
    }
    net = network(told, seed)
    state = under("", net)
    state["storage_tokens"] = state.pop("reg_token")
    for block in range(2):
        at = f"blocks.{block}."
        q, v = state.pop(at + "attn.q_bias"), state.pop(at + "attn.v_bias")
        state.pop(at + "attn.k_bias", None)
        state[at + "attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        state[at + "attn.qkv.bias_mask"] = torch.ones(3 * len(q))
        state |= {f"{at}ls{place}.gamma": state.pop(f"{at}gamma_{place}") for place in (1, 2)}
    state |= {"mask_token": ONE, "rope_embed.periods": torch.ones(6)}
    return Made({"teacher": under("backbone.", state)}, net, told, (), "teacher.backbone.blocks.1.norm1.weight")


def clip(prefix: str, wrap: str) -> Callable[[int], Made]:
    """OpenAI's names of an image tower, and a text tower beside it."""
    arch = "vit_base_patch16_clip_quickgelu_224"
    told = {"arch": arch, "size": 64, "options": {"embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}}
    swaps = (("blocks.", "transformer.resblocks."), (".norm1.", ".ln_1."), (".norm2.", ".ln_2."), ("norm_pre.", "ln_pre."))
    swaps += ((".attn.qkv.", ".attn.in_proj_"), (".attn.proj.", ".attn.out_proj."), (".mlp.fc1.", ".mlp.c_fc."))
    swaps += ((".mlp.fc2.", ".mlp.c_proj."), ("patch_embed.proj.", "conv1."), ("pos_embed", "positional_embedding"))

    def make(seed: int) -> Made:
        net = network(told, seed)
        state = {}
        for key, value in under("", net).items():
            for ours, theirs in swaps:
                key = key.replace(ours, theirs)
            state[key.replace("cls_token", "class_embedding")] = value
        state |= {key.replace("norm.", "ln_post."): state.pop(key) for key in ("norm.weight", "norm.bias")}
        state["class_embedding"], state["positional_embedding"] = (
            state["class_embedding"][0, 0],
            state["positional_embedding"][0],
        )
        state["proj"] = torch.ones(48, 32)
        body = under(prefix, state)
        if prefix:
            before = prefix.removesuffix("visual.")
            text = ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "logit_scale")
            body |= {before + key: ONE for key in (*text, "text_projection")}
        left = ("proj (1)", "text tower (4)") if prefix else ("proj (1)",)
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        first = prefix + "transformer.resblocks.1.ln_1.weight"
        return Made({wrap: body} if wrap else body, net, told, left, f"{wrap}." * bool(wrap) + first, mean=mean, std=std)

    return make


def dual(norms: int, prefix: str = "", extra: tuple[str, ...] = ("fc.fc1.weight",), which: int = 1) -> Callable[[int], Made]:
    """A ResNet with several batch norms a layer and, with `prefix` empty, its own normalization."""

    def make(seed: int) -> Made:
        nets = [network(CIFAR, seed + place) for place in range(norms)]
        for net in nets[1:]:
            shared = {key: value for key, value in nets[0].state_dict().items() if value.dim() == 4}
            net.load_state_dict(shared, strict=False)
        state = {}
        for place, net in enumerate(nets):
            for key, value in under("", net).items():
                key = key.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.bn.")
                if value.dim() != 4:
                    before, _, last = key.rpartition(".")
                    key = f"{before}.bn_list.{place}.{last}"
                state[prefix + key] = value
        state |= {prefix + key: ONE for key in extra}
        own = {"normalize.mean": torch.tensor(IMAGENET["mean"]), "normalize.std": torch.tensor(IMAGENET["std"])}
        stored = {"epoch": 3, "state_dict": {**state, **under(prefix, own)}, "optim": OPTIMIZER}
        first = f"state_dict.{prefix}layer2.0.bn1.bn_list.{which}.weight"
        return Made(stored, nets[which], CIFAR, ("other batch norms (",), first, side=32)

    return make


def rocl(seed: int) -> Made:
    """kuangliu's names, DataParallel; no normalization."""
    told = {**CIFAR, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    net = network(told, seed)
    state = {key.replace(".downsample.", ".shortcut."): value for key, value in under("module.", net).items()}
    stored = {"epoch": 3, "acc": 0.5, "model": state, "optimizer_state": OPTIMIZER, "rng_state": torch.get_rng_state()}
    return Made(
        stored, net, told, (), "model.module.layer2.0.shortcut.0.weight", mean=told["mean"], std=told["std"], side=32
    )


def deacl(seed: int) -> Made:
    """solo-learn's CIFAR ResNet with its own normalization; the teacher beside it, in a Lightning checkpoint."""
    told = {"arch": "tv:resnet18", "options": {"stem": "cifar_pad2"}}
    student, teacher = network(told, seed), network(told, seed + 1)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    own = {"normalize.mean": torch.tensor(mean), "normalize.std": torch.tensor(std)}
    body = {f"{name}.{key}": value for name in ("backbone", "momentum_backbone") for key, value in own.items()}
    body |= {**under("backbone.", student), **under("momentum_backbone.", teacher), "classifier.weight": ONE, "queue": ONE}
    stored = {"state_dict": body, "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "optimizer_states": [OPTIMIZER]}
    left = ("momentum_backbone (", "classifier (1)", "queue (1)")
    return Made(
        stored, student, told, left, "state_dict.backbone.layer2.0.conv1.weight", ("teacher", teacher), mean, std, 32
    )


def parts(wrap: str, prefix: str, names: tuple[str, ...], told: dict[str, Any], *left: str) -> Callable[[int], Made]:
    """A ResNet cut into an unnamed sequence."""

    def make(seed: int) -> Made:
        net = network(told, seed)
        state = {key.replace(".downsample.", ".shortcut.") if "cifar_bare" in str(told) else key: value
                 for key, value in sequence(net, names).items()}  # fmt: skip
        body = {**under(prefix, state), **{key.split(" ")[0] + ".0.weight": ONE for key in left}}
        first = f"{wrap}." * bool(wrap) + f"{prefix}{names.index('layer2')}.0.conv1.weight"
        side = 32 if "stem" in told["options"] else 64
        return Made({wrap: body} if wrap else body, net, told, tuple(f"{key} (1)" for key in left), first, side=side)

    return make


BARE = {"arch": "tv:resnet18", "options": {"stem": "cifar_bare"}}
MAE = {"mask_token": ONE, "decoder_embed.weight": ONE, "decoder_blocks.0.norm1.weight": ONE, "decoder_pred.bias": ONE}
MOCO3 = {
    "module.predictor.0.weight": ONE,
    "module.base_encoder.fc.0.weight": ONE,
    "module.momentum_encoder.fc.0.weight": ONE,
}
SOLO = {"projector.0.weight": ONE, "momentum_projector.0.weight": ONE, "classifier.weight": ONE, "queue": ONE}
LIGHTLY = {"projection_head.layers.0.weight": ONE, "teacher_projection_head.layers.0.weight": ONE}
BYOL = {"module.predictor.predictor.l1.weight": ONE, "module.online_network.projetion.l1.weight": ONE}
LAYOUTS: dict[str, Callable[[int], Made]] = {
    "torchvision and timm": single("", "", RESNET, {}),
    "DDP and compile": single("module._orig_mod.", "model", RESNET, {}),
    "MoCo v1 and v2": pair("module.encoder_q.", "module.encoder_k.", "student", "state_dict", RESNET,
                           {"module.encoder_q.fc.0.weight": ONE, "module.queue": ONE, "module.queue_ptr": torch.zeros(1)},
                           "encoder_k (", "fc (1)", "queue (1)"),
    "MoCo v3 ResNet": pair("module.base_encoder.", "module.momentum_encoder.", "student", "state_dict", RESNET, MOCO3,
                           "momentum_encoder (", "predictor (1)"),
    "MoCo v3 ViT": pair("module.base_encoder.", "module.momentum_encoder.", "student", "state_dict", VIT,
                        {"module.base_encoder.head.0.weight": ONE, "module.predictor.0.weight": ONE}, "head (1)"),
    "Barlow Twins": single("module.backbone.", "model", RESNET, {"module.projector.0.weight": ONE, "module.bn.running_mean": ONE},
                           "projector (1)", "bn (1)"),
    "VICReg": single("module.backbone.", "model", RESNET, {"module.projector.0.weight": ONE}, "projector (1)"),
    "SwAV": single("module.", "", RESNET, {"module.projection_head.0.weight": ONE, "module.prototypes.weight": ONE},
                   "projection_head (1)", "prototypes (1)"),
    "SimSiam": single("module.encoder.", "state_dict", RESNET, {"module.encoder.fc.0.weight": ONE, "module.predictor.0.weight": ONE},
                      "fc (1)", "predictor (1)"),
    "SimCLR, sthalles": single("backbone.", "state_dict", RESNET, {"backbone.fc.0.weight": ONE}, "fc (1)"),
    "SimCLR, Spijkervet": single("encoder.", "", RESNET, {"projector.0.weight": ONE}, "projector (1)"),
    "SimCLR, AndrewAtanov": single("convnet.", "state_dict", RESNET, {"projection.fc1.weight": ONE}, "projection (1)"),
    "SimCLR, leftthomas": parts("", "f.", ("conv1", "bn1", "", "layer1", "layer2", "layer3", "layer4"), CIFAR, "g"),
    "BYOL, yaox12": pair("module.online_network.encoder.", "module.target_network.encoder.", "student", "model", RESNET, BYOL,
                         "predictor (1)", "projetion (1)", "target_network ("),
    "BYOL, lucidrains": pair("online_encoder.net.", "target_encoder.net.", "student", "", RESNET,
                             {"online_predictor.0.weight": ONE, "online_encoder.projector.0.weight": ONE}, "online_predictor (1)"),
    "VISSL": single("base_model.model.trunk._feature_blocks.", "classy_state_dict", RESNET,
                    {"base_model.model.heads.0.clf.0.weight": ONE}, "heads (1)"),
    "solo-learn": pair("backbone.", "momentum_backbone.", "student", "state_dict", RESNET, SOLO, "projector (1)", "queue (1)"),
    "solo-learn before 2022": pair("encoder.", "momentum_encoder.", "student", "state_dict", RESNET, SOLO, "projector (1)"),
    "lightly BYOL": pair("backbone.", "teacher_backbone.", "student", "state_dict", RESNET, LIGHTLY, "projection_head (1)"),
    "lightly DINO": pair("student_backbone.", "backbone.", "teacher", "state_dict", RESNET, LIGHTLY, "student_backbone ("),
    "lightly MoCo": pair("backbone.", "key_backbone.", "student", "state_dict", RESNET, LIGHTLY, "key_backbone ("),
    "lightly iBOT": pair("student_backbone.vit.", "teacher_backbone.vit.", "teacher", "state_dict", VIT,
                         {"student_head.last_layer.weight": ONE, "teacher_backbone.mask_token": ONE}, "mask_token (1)"),
    "lightly's examples": parts("state_dict", "backbone.", CHILDREN, RESNET, "projection_head"),
    "lightly's own ResNet": parts("state_dict", "backbone.", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), BARE),
    "mmselfsup MoCo": pair("backbone.", "encoder_k.", "student", "state_dict", RESNET, {"neck.fc0.weight": ONE}, "neck (1)"),
    "a moving average beside it": pair("model.", "model_ema.", "teacher", "", RESNET, {}, "another copy, model"),
    "DINO": dino,
    "iBOT": ibot,
    "DINOv2": dinov2(0, False),
    "DINOv2 with registers": dinov2(4, False),
    "DINOv2's teacher, in chunks": dinov2(0, True),
    "DINOv2's teacher with registers, in chunks": dinov2(4, True),
    "DINOv3": dinov3,
    "MAE": single("", "model", VIT, MAE, "mask_token (1)", "decoder_embed (1)", "decoder_blocks (1)", "decoder_pred (1)"),
    "I-JEPA": jepa,
    "CLIP": clip("visual.", ""),
    "open_clip": clip("module.visual.", "state_dict"),
    "RobustVLM": clip("", ""),
    "open_clip with a timm tower": single("visual.trunk.", "", VIT, {"logit_scale": ONE, "text.ln_final.weight": ONE}, "text tower (2)"),
    "ACL": dual(2),
    "AdvCL": dual(3, "module.", ("head_ce.0.weight", "fc_010.weight")),
    "RoCL": rocl,
    "DeACL": deacl,
}  # fmt: skip


def dynacl(seed: int) -> Made:
    """MoCo's two encoders, each with two batch norms."""
    made = dual(2, "encoder_q.")(seed)
    second = dual(2, "encoder_k.")(seed + 5)
    made.stored["state_dict"] |= second.stored["state_dict"]
    made.other = ("teacher", second.net)
    made.left = ("encoder_k (", "fc (")
    return made


LAYOUTS["DynACL"] = dynacl
