"""How public checkpoints name an encoder's weights, as tables: prefixes to strip, which network, heads, keys to rename.

`naming` uses these tables; a new layout is a new row. Every row names the source file that writes or reads such checkpoints,
as of November 2026; rows with the source "unverified" were written from a description and not from the code.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Role = Literal["student", "teacher"]
"""student: the network that gradients train (query, online, context). teacher: its moving average (key, target, EMA)."""

# fmt: off
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "_orig_mod", "net", "network", "params", "weights",
    "classy_state_dict", "base_model", "attacker", "_fsdp_wrapped_module", "_forward_module",
)
"""Prefixes of an encoder's keys without meaning: wrappers of checkpoints, DataParallel, DDP, FSDP, Lightning's strategies
and `torch.compile`."""

NAMES = (
    "backbone", "encoder", "trunk", "_feature_blocks", "visual", "vision_model", "vision_encoder", "image_encoder", "vit",
    "feature_extractor", "convnet", "resnet", "body", "f",
)
"""Names of the encoder within a larger module: solo-learn, lightly, VISSL, CLIP, AndrewAtanov's and leftthomas's SimCLR."""

SKIPPED = re.compile(
    r"(optim\w*|opt|opt_state_dict|amp|(fp16_|grad_)?scaler|(lr_)?schedulers?|rng_state|args|config|hparams|hyper_parameters"
    r"|callbacks|loops|meta|message_hub|(dino|ibot)_loss|epoch|iter|step|loss|(best_)?acc\w*)"
)
"""Parts of a checkpoint that are not weights of a network; they are skipped."""

INNER = re.compile(r"(?:(?<=\.)|^)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What `torch.compile`, FSDP and activation checkpointing of single blocks add within a network's own names."""

COUNTERS = re.compile(r"n_averaged|(num_)?updates|steps?|initted|decay")
"""Single numbers among the weights of an averaged copy: torch.optim.swa_utils' n_averaged, mmengine's steps, ema-pytorch's
initted and step, num_updates of several EMAs."""
# fmt: on


class Pair(NamedTuple):
    """Two networks in one checkpoint, by the prefix of each, and which of them the authors evaluate.

    An empty prefix is a network without such a prefix.
    """

    student: str
    teacher: str
    evaluated: Role
    source: str


PAIRS = (
    Pair(
        "student", "teacher", "teacher", "facebookresearch/dino eval_knn.py, dinov2 eval/setup.py; bytedance/ibot README.md"
    ),
    Pair("student_backbone", "teacher_backbone", "teacher", "lightly-ai/lightly benchmarks/imagenet/vitb16/dinov2.py"),
    Pair("student_backbone", "backbone", "teacher", "lightly-ai/lightly benchmarks/imagenet/resnet50/dino.py"),
    Pair("encoder_q", "encoder_k", "student", "facebookresearch/moco main_lincls.py; PKU-ML/DYNACL train_DynACL.py"),
    Pair("base_encoder", "momentum_encoder", "student", "facebookresearch/moco-v3 main_lincls.py"),
    Pair("online_network", "target_network", "student", "yaox12/BYOL-PyTorch model/byol_model.py"),
    Pair("online_network_state_dict", "target_network_state_dict", "student", "sthalles/PyTorch-BYOL trainer.py"),
    Pair("online_encoder", "target_encoder", "student", "lucidrains/byol-pytorch byol_pytorch.py"),
    Pair("encoder", "target_encoder", "teacher", "facebookresearch/ijepa src/train.py, jepa and vjepa2 configs/evals"),
    Pair("encoder", "momentum_encoder", "student", "vturrisi/solo-learn main_linear.py, its checkpoints before 2022"),
    Pair(
        "backbone", "momentum_backbone", "student", "vturrisi/solo-learn main_linear.py; pantheon5100/DeACL adv_finetune.py"
    ),
    Pair("backbone", "backbone_momentum", "student", "lightly-ai/lightly examples/pytorch_lightning/byol.py"),
    Pair("backbone", "teacher_backbone", "student", "lightly-ai/lightly benchmarks/imagenet/resnet50/byol.py"),
    Pair("backbone", "key_backbone", "student", "lightly-ai/lightly benchmarks/imagenet/resnet50/mocov2.py"),
    Pair("backbone", "target_net", "student", "open-mmlab/mmselfsup models/algorithms/byol.py"),
    Pair("backbone", "encoder_k", "student", "open-mmlab/mmselfsup models/algorithms/moco.py"),
    Pair("backbone", "momentum_encoder", "student", "open-mmlab/mmselfsup models/algorithms/mocov3.py"),
    Pair("online_model", "ema_model", "teacher", "lucidrains/ema-pytorch ema_pytorch.py"),
    Pair(
        "current_model_state",
        "",
        "teacher",
        "pytorch_lightning callbacks/weight_averaging.py; mmengine hooks/ema_hook.py, after `weights_file`",
    ),
    Pair("", "model_ema", "teacher", "timm models/_helpers.py, load_state_dict(use_ema=True)"),
    Pair("", "state_dict_ema", "teacher", "timm models/_helpers.py, load_state_dict(use_ema=True)"),
    Pair("", "ema_state_dict", "teacher", "unverified"),
    Pair("", "ema", "teacher", "unverified"),
    *(Pair("", name, "teacher", "unverified") for name in ("ema_model", "model_ema_state_dict", "averaged_model")),
    *(Pair("", name, "teacher", "torch.optim.swa_utils' examples") for name in ("swa_model", "swa_state_dict")),
    Pair("", "gram_teacher", "student", "facebookresearch/dinov3 train/ssl_meta_arch.py"),
)
"""The first pair of which a checkpoint has both networks applies. Self-distillation methods evaluate the teacher, momentum
contrast and BYOL the network trained by gradients."""

ROLES: dict[str, Role] = {
    **{pair.teacher: "teacher" for pair in PAIRS if pair.teacher not in ("", "backbone")},
    **{pair.student: "student" for pair in PAIRS if pair.student not in ("", "backbone", "encoder")},
}
"""The role of a single network in a checkpoint, by its prefix."""

PROJECTING = ROLES.keys() - {"online_model", "current_model_state"} - {pair.teacher for pair in PAIRS if not pair.student}
"""Prefixes of networks that were trained on projections: their last layer is a projection, not a classifier."""

HEADS: tuple[tuple[str, str], ...] = (
    (
        r"\w*proj(ec|e)t\w*|\w*proj(_head)?",
        "projectors: SimCLR, Barlow Twins, VICReg, solo-learn; `projetion` in BYOL's ports; CLIP",
    ),
    (r"\w*predict\w*", "predictors: BYOL, SimSiam, MoCo v3, I-JEPA"),
    (
        r"\w*heads?\w*|neck|last_layer|mlp_head",
        "DINO, iBOT, lightly, VISSL, mmselfsup, AdvCL's head_ce, head_proj, head_pred",
    ),
    (
        r"fc(_\d+)?|linear\w*|\w*classifier\w*|g",
        "classifiers, and projections under a classifier's name: MoCo, ACL, RoCL, leftthomas's SimCLR",
    ),
    (r"\w*prototypes?\d*|queue\w*|center", "SwAV, DeepCluster v2, MoCo, solo-learn, lightly"),
    (r"mask_token|masked_embed|decoder\w*", "MAE, DINOv2, DINOv3, iBOT"),
    (
        r"momentum_\w+|\w+_momentum|bn|criterion\w*|\w*_loss\d*",
        "moving averages of heads; Barlow Twins' last norm; losses' buffers",
    ),
    (r"local_cls_norm", "DINOv3: of local crops, never used in evaluation"),
)
"""Patterns of the first word of keys outside the encoder, and their origin. Keys that match none of them are refused."""

TEXT = re.compile(
    r"transformer|token_embedding|positional_embedding|ln_final|text\w*|logit_(scale|bias)|attn_mask|attnpool_text"
)
"""Keys of CLIP's text tower: openai/CLIP clip/model.py, mlfoundations/open_clip."""

RECOMPUTED = re.compile(
    r".*(num_batches_tracked|relative_position_index|relative_coords_table|attn_mask|position_ids|bias_mask|rope_embed.periods)"
)
"""Buffers that a network computes itself, so that a file may have them or not."""

NORMALIZER = re.compile(r"(?:normali[sz]\w*|preprocess\w*|0)\.(?:new_)?(mean|std|mu|sigma)")
"""Buffers [3], [3, 1, 1] or [1, 3, 1, 1] of a network's own normalization, inside it (ACL, DynACL, DeACL), in a module before
it (RobustBench/robustbench architectures/utils_architectures.py; 0 is the first of an unnamed sequence) or beside it
(`normalizer.new_mean` and a copy under `attacker.normalize`: MadryLab/robustness attacker.py, tools/helpers.py)."""

MADRY = "normalizer.new_mean"
"""A key that only MadryLab/robustness writes: there `linear` of its CIFAR networks (cifar_models/resnet.py) is the classifier, which
in self-supervised checkpoints is a name of projections too."""

NORMS = {"normal": "0", "adv": "1", "adv_ce": "2"}
"""Dual batch norm: the index in `bn_list` of each norm. VITA-Group/Adversarial-Contrastive-Learning, PKU-ML/DYNACL:
`['normal', 'pgd']`; LijieFan/AdvCL: `['normal', 'pgd', 'pgd_ce']`. All three evaluate 'pgd', which we call "adv": readme.md
and README.md of the first two, `--bnNameCnt 1`; `load_BN_checkpoint` of the third."""


class Naming(NamedTuple):
    """Regular expressions and replacements, applied in order, that rename an encoder's keys to those of timm or torchvision.

    needs: an option that the architecture must have and that cannot be inferred from shapes.
    """

    name: str
    rules: tuple[tuple[str, str], ...]
    source: str
    needs: tuple[str, str] | None = None


def _stages(first: int, stem: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Rules for a ResNet as an unnamed sequence: the stem's parts from index 0, the four stages from index `first`."""
    rules = [(rf"^{place}\.", f"{name}.") for place, name in enumerate(stem)]
    return (*rules, *((rf"^{first + stage}\.(\d)", rf"layer{stage + 1}.\1") for stage in range(4)))


SHORTCUT = (r"\.shortcut\.", ".downsample.")
NAMINGS = (
    Naming(
        "shortcut",
        (SHORTCUT,),
        "kuangliu/pytorch-cifar's blocks: Kim-Minseon/RoCL src/models/resnet.py, LijieFan/AdvCL models/resnet_cifar.py",
    ),
    Naming(
        "dual batch norm",
        ((r"downsample\.conv\.", "downsample.0."), (r"downsample\.bn\.", "downsample.1."), (r"\.bn_list\.", "."), SHORTCUT),
        "VITA-Group/Adversarial-Contrastive-Learning models/resnet_multi_bn.py; PKU-ML/DYNACL, LijieFan/AdvCL the same",
    ),
    Naming(
        "a sequence of a ResNet's parts",
        _stages(4, ("conv1", "bn1")),
        "lightly-ai/lightly examples/, yaox12 and sthalles BYOL",
    ),
    Naming("a sequence of a ResNet's parts without pool", _stages(3, ("conv1", "bn1")), "leftthomas/SimCLR model.py"),
    Naming(
        "a sequence of lightly's ResNet",
        (*_stages(2, ("conv1", "bn1")), SHORTCUT),
        "lightly-ai/lightly lightly/models/resnet.py: its ReLU is not a submodule, so the sequence's stem has none",
        ("stem", "cifar_bare"),
    ),
    Naming(
        "DINOv2's chunks of blocks",
        ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),),
        "facebookresearch/dinov2 models/vision_transformer.py",
    ),
    Naming(
        "deit3's layer scale",
        ((r"\.gamma_(\d)$", r".ls\1.gamma"),),
        "bytedance/ibot models/vision_transformer.py, init_values",
    ),
    Naming(
        "CLIP's image tower (OpenAI's, and those made from it, want an architecture with quickgelu in its name)",
        (
            (r"^conv1\.", "patch_embed.proj."),
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.", "blocks."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
        "openai/CLIP clip/model.py; chs20/RobustVLM train/adversarial_training_clip.py saves it without a prefix",
    ),
    Naming(
        "SimCLR v2's ResNet",
        (
            (r"^net\.0\.0\.", "conv1."),
            (r"^net\.0\.1\.0\.", "bn1."),
            (r"^net\.(\d)\.blocks\.", r"layer\1."),
            (r"\.projection\.shortcut\.", ".downsample.0."),
            (r"\.projection\.bn\.0\.", ".downsample.1."),
            *((rf"\.net\.{2 * place}\.", f".conv{place + 1}.") for place in range(3)),
            *((rf"\.net\.{2 * place + 1}\.0\.", f".bn{place + 1}.") for place in range(3)),
        ),
        "Separius/SimCLRv2-Pytorch resnet.py, without selective kernels",
    ),
)
"""Tried if the keys don't fit unchanged; the renaming under which most keys fit is used. timm's own converters are tried
last: they handle the registers of DINOv2 and DINOv3, and interpolate position embeddings to another size."""

HINTS = (
    (
        r"conv1\.weight",
        lambda shape: tuple(shape[-2:]) == (3, 3),
        "its 3x3 stem is a CIFAR stem: arch='tv:resnet18', options={'stem': 'cifar'}",
    ),
    (
        r"patch_embed\.proj\.weight",
        lambda shape: len(shape) == 5,
        "it is an encoder of clips, [B, 3, T, H, W], not of images",
    ),
    (r"pos_embed|patch_embed\.proj\.weight", lambda shape: len(shape) < 5, "it may be for another image size or patch size"),
)
"""Hints for weights of a wrong shape: pattern of the key, a test of its shape in the file, and the hint."""
