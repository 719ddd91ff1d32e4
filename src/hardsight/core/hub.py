"""Uploading a folder to the Hugging Face hub, by huggingface_hub; nothing is sent before everything that can be checked is."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hardsight.core.errors import HardsightError, MissingDependency, SpecError

NEEDED = ("README.md", "config.json", "model.safetensors")


def need_token(folder: Path, to: str) -> None:
    """`MissingDependency` without huggingface_hub; `SpecError` for no exported folder, no repository's name, or no token."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise MissingDependency("push needs huggingface_hub: pip install 'hardsight[hf]'") from None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", to):
        raise SpecError(f"--to '{to}' is no repository; it is ORG/NAME")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise SpecError(f"{folder} has no {', no '.join(missing)}; give a folder written by 'hardsight export'")
    if not get_token():
        raise SpecError("no token of the hub is known; set HF_TOKEN, or log in once with 'hf auth login'")


def upload(folder: Path, to: str, public: bool) -> str:
    """The repository's address, after all files are there. An existing repository keeps its visibility.

    Raises `HardsightError` if the hub refuses: with a public repository that was to be private, before anything is sent.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        made = api.create_repo(to, private=not public, exist_ok=True)
        if not public and not api.repo_info(to).private:
            raise SpecError(f"{to} is there already, and public; give --public if that is what you want, or another --to")
        api.upload_folder(folder_path=folder, repo_id=to, commit_message="Exported by hardsight")
    except HfHubHTTPError as error:
        raise HardsightError(f"the hub refuses {to}: {' '.join(str(error).split())[:200]}") from None
    return str(made)
