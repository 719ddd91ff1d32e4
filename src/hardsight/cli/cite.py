"""How to cite this version, as BibTeX; `CITATION.cff` says the same."""

from __future__ import annotations

from hardsight import __version__

TITLE = "Hardsight: the adversarial robustness of vision encoders, on every task that uses them"
AUTHORS = "The Hardsight developers"
YEAR = 2026
URL = "https://github.com/hardsight/hardsight"


def bibtex() -> str:
    """One entry of the kind `software` (BibLaTeX; plain BibTeX styles print it as `misc`)."""
    fields = {
        "title": f"{{{TITLE}}}",
        "author": f"{{{AUTHORS}}}",
        "year": YEAR,
        "version": __version__,
        "license": "MIT",
        "url": URL,
    }
    return "@software{hardsight,\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}"
