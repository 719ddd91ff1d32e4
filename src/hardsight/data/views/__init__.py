"""Random views (augmentations) for training, computed for a whole batch at once. `geometry` and `colour` transform pixels,
`view` draws the random parameters, `plans` defines how many views and of which kinds.
"""

from hardsight.data.views.plans import views
from hardsight.data.views.view import View, Views

__all__ = ["View", "Views", "views"]
