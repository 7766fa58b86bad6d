"""Whether a run is tracked online, offline or not at all, and how lean. Imports no torch."""

import contextlib
import logging
import os
from typing import Any

from nfbench.errors import UsageError

log = logging.getLogger("nfbench")
CHOICES = ("auto", "online", "offline", "disabled")
OLD_NAMES = {"run": "online", "dryrun": "offline"}  # which W&B still takes
SECONDS = 3.0  # for a server to answer
SETTINGS: dict[str, Any] = {
    # What git, pip and the terminal show stands in the record and in log.txt.
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "silent": True,
    # A server that stops answering holds no run up for long; what was logged is on disk.
    "init_timeout": 30.0,
    "finish_timeout": 120.0,
    "finish_timeout_raises": True,
    # Of a process that is killed nothing but the last second is lost.
    "x_transaction_log_flush_interval": 1.0,
}


def choose(asked: str = "auto") -> str:
    """Online, offline or disabled: ``auto`` is WANDB_MODE, else online where there is a key.

    Offline, with a line in the log, where the server does not answer or wandb is told no key.

    Raises:
        UsageError: another mode.
    """
    told = os.environ.get("WANDB_MODE") or "auto" if asked == "auto" else asked
    mode = OLD_NAMES.get(told, told)
    if mode not in CHOICES:
        known = ", ".join(CHOICES)
        raise UsageError(f"W&B mode (--wandb, WANDB_MODE): expected one of {known}; got {told!r}")
    if mode in ("offline", "disabled"):
        return mode
    if reason := obstacle():
        level = logging.INFO if mode == "auto" else logging.WARNING
        log.log(level, "W&B: offline, as %s; `nfbench wandb sync` pushes it later", reason)
        return "offline"
    return "online"


def obstacle() -> str | None:
    """What keeps runs from going online, or None: no key, or a server that does not answer."""
    import requests
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    settings = wandb.setup().settings
    url = settings.base_url
    key = settings.api_key or settings.identity_token_file
    with contextlib.suppress(wandb.errors.AuthenticationError):  # a key of another form is none
        key = key or read_netrc_auth(host=url)
    if not key:
        return f"no key for {url} is configured (`wandb login`)"
    try:
        requests.head(url, timeout=SECONDS)  # whatever it answers; through a proxy if there is one
    except requests.RequestException as error:
        return f"{url} does not answer ({type(error).__name__})"
    return None
