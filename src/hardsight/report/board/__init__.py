"""The board: one static site over any number of stores, which works from a folder without a server and without a network.

    SITE/index.html        the table of encoders, ranks and ties, Pareto front; its data are in data/board.js
        /encoder/<n>-NAME.html   one page an encoder
        /pair.html#A,B     any two encoders, from data/<n>.js of both: per-image outcomes, packed
        /board.css, board.js, pair.js

In: finished cells of stores. Out: files, each written atomically; the same stores give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from hardsight.core.errors import StoreError
from hardsight.report.board.data import Board, gathered, image_names, index, outcomes
from hardsight.report.board.encoder import page
from hardsight.report.measured import read
from hardsight.report.results import plain
from hardsight.store.files import write_bytes

HERE = Path(__file__).parent
COPIED = ("board.css", "board.js", "pair.js")
PAGES = ("index.html", "pair.html")


def write(stores: Sequence[str | Path], out: str | Path, title: str = "Robustness board") -> Board:
    """Writes the site of some stores' finished cells into the folder `out`.

    Cells that cannot be read are left out, and the site says which. Raises `StoreError` if a folder is not a store, or if
    nothing is left.
    """
    out = Path(out)
    entries, left_out = read(stores)
    if not entries:
        reason = f"; {left_out[0]}" if left_out else ""
        raise StoreError(f"no finished cell in {', '.join(map(str, stores))}: there is nothing to rank{reason}")
    board = gathered(entries, left_out)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    for name in COPIED:
        write_bytes(out / name, (HERE / name).read_bytes())
    for name in PAGES:
        text = environment.get_template(f"{name}.j2").render(title=plain(title), left_out=board.left_out, board=board)
        write_bytes(out / name, text.encode())
    write_bytes(out / "data" / "board.js", script("board", index(board)))
    write_bytes(out / "data" / "images.js", script("images", image_names(board)))
    template, pictures = environment.get_template("encoder.html.j2"), {}
    for number in range(len(board.names)):
        write_bytes(out / "data" / f"{number}.js", script(f"outcomes_{number}", outcomes(board, number)))
        found = page(board, number, pictures)
        write_bytes(out / "encoder" / board.files[number], template.render(title=plain(title), **found).encode())
    return board


def script(name: str, content: Any) -> bytes:
    """A script that sets one global; a name in it can neither end the script nor be markup."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f"window.hardsight_{name}={text};\n".encode()
