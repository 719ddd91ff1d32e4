"""Random views (augmentations) for training, computed for a whole batch at once. `geometry` and `colour` transform pixels,
`pictures` holds a batch of unlike sizes, `view` draws the random parameters, `plans` defines how many views and of which
kinds.
"""

from hardsight.data.views.pictures import Batched, Pictures, whole
from hardsight.data.views.plans import views
from hardsight.data.views.view import View, Views

__all__ = ["Batched", "Pictures", "View", "Views", "views", "whole"]
