"""Specs of training methods with networks and views small enough for tests, by the method's name."""

from __future__ import annotations

SMALL = {
    "mae": "mae(width=32, depth=1, heads=4)",
    "supcon": "supcon(widths=(16, 8))",
    "moco_v2": "moco_v2(widths=(16, 8), queue=16)",
    "moco_v3": "moco_v3(widths=(16, 16, 8), predictor=16)",
    "byol": "byol(widths=(16, 8), predictor=16)",
    "simsiam": "simsiam(widths=(16, 16, 16), predictor=8)",
    "barlow": "barlow(widths=(16, 16))",
    "vicreg": "vicreg(1.0, 1.0, 0.04, widths=(16, 16))",
    "swav": "swav(prototypes=10, widths=(16, 8), views=multicrop(2, 2, sizes=(16, 8)))",
    "dino": "dino(outputs=20, widths=(16, 8), views=multicrop(2, 2, sizes=(16, 8)))",
    "multitask": "multitask(adversary(pgd(2, keep=last)), prototypes=4)",
    "emp": "emp(widths=(32, 32, 16), views=patches(4))",
}
