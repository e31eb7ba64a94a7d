"""Repositories of the Hugging Face hub, which come with huggingface_hub's own cache."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def offline() -> bool:
    """Whether the environment forbids every download."""
    return os.environ.get("SPAE_OFFLINE", "0") not in ("", "0")


def is_repository(name: object) -> bool:
    """Whether a name is looked up on the hub: a string "owner/name" whose first part is no folder here. Any
    other spelling is a path."""
    if not isinstance(name, str) or _REPOSITORY.fullmatch(name) is None:
        return False
    return not Path(name).exists() and not Path(name).parent.is_dir()


def snapshot(name: str, patterns: Sequence[str], **options: Any) -> Path:
    """The folder of a repository's files that match, downloaded where they are not cached.

    options: revision, token, cache_dir and local_files_only, as huggingface_hub has them; `SPAE_OFFLINE=1`
    in the environment means the last.

    Raises LookupError, with the reason, if the hub does not give it.
    """
    # Here, because it takes longer to import than all the rest.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    options["local_files_only"] = options.get("local_files_only", False) or offline()
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), **options))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise LookupError(str(error)) from error
