"""What a training method sees of an image: random views, drawn for a batch at once. `geometry` and `colour` change pixels,
`view` draws how, `plans` says how many and of which kinds.
"""

from hardsight.data.views.plans import views
from hardsight.data.views.view import View, Views

__all__ = ["View", "Views", "views"]
