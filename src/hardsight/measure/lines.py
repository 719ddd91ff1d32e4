"""What a run says of a finished cell, read from the store, whoever measured it."""

from __future__ import annotations

from hardsight.metrics import of
from hardsight.metrics.worst import counts_for
from hardsight.store.cells import StoredCell


def of_cell(stored: StoredCell) -> str:
    """The headline with its interval: `resnet18 · classify on cifar10 · PGD 8/255: accuracy 12.0 % [8.1, 17.4], n = 200, 3.1 s`."""
    what, done, metric, rows = stored.what, stored.done or {}, of(stored.what["task_name"]), stored.rows()
    low, high = metric.interval(counts_for(rows, metric, metric.headline))
    scale = 100 if metric.unit == "%" else 1
    value, low, high = (
        f"{scale * number:.{1 if scale == 100 else 3}f}" for number in (done["summary"][metric.headline], low, high)
    )
    name = f"{what['encoder_name']} · {what['task_name']} on {what['data_name']} · {what['attack_name']} {what['eps_text']}"
    return (
        f"{name.rstrip()}: {metric.label} {value} {metric.unit} [{low}, {high}], n = {len(rows['id'])}, {done['seconds']:.1f} s"
        + f", without {done['left_out']} images whose label is the attack's target" * bool(done["left_out"])
    )


def of_audit(stored: StoredCell) -> list[str]:
    """The verdict, and each check that warns or fails."""
    found = stored.audit or {}
    name = f"{stored.what['encoder_name']} · {stored.what['task_name']}"
    said = f"{name} · audit: {found['verdict']}, {len(found['checks'])} checks, {found['seconds']} s"
    images = found["images"] + found["unlabelled"]
    left_out = f", {found['unlabelled']} of {images} images left out: nothing of them is labelled"
    checks = (one for one in found["checks"] if one["verdict"] in ("warn", "fail"))
    return [
        said + left_out * bool(found["unlabelled"]),
        *(f"  {check['verdict']}: {check['title']}: {check['reason']}" for check in checks),
    ]
