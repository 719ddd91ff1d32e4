"""How NT-Xent treats negatives that may be false: views of two images of one class, which it would push apart."""

from hardsight.training.criteria.negatives.base import Negatives
from hardsight.training.criteria.negatives.detect import all_negatives

__all__ = ["Negatives", "all_negatives"]
