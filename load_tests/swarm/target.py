"""The platform under load: its URL, an API key, and the phone network's account that signs webhooks.

From the environment, or, for a local platform on this machine, from its data folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import requests

from serve_app.local_services import SIMULATED_NETWORK_FILE
from serve_app.settings import load_settings

TIMEOUT_S = 10.0
CAPACITY_TIMEOUT_S = 90.0
_ACCOUNT = ("VONAGE_API_KEY", "VONAGE_APPLICATION_ID", "VONAGE_SIGNATURE_SECRET")


class TargetError(Exception):
    """The platform cannot be called. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Account:
    """The phone network's account, as the platform knows it."""

    api_key: str
    application_id: str
    signature_secret: str


@dataclass(frozen=True, slots=True)
class Target:
    """`announce_url`: of simulators that must be told what callees say. `fixed_wait_ms`: what the providers take of
    every answer, None where that is not fixed."""

    url: str
    account: Account
    to_number: str
    announce_url: str | None
    fixed_wait_ms: float | None

    @property
    def answer_url(self) -> str:
        return f"{self.url}/webhooks/vonage/answer"

    @property
    def event_url(self) -> str:
        return f"{self.url}/webhooks/vonage/event"

    def opening(self, from_number: str) -> dict[str, Any]:
        """How a leg worker places an inbound call from this number."""
        return {
            "kind": "vonage",
            "answer_url": self.answer_url,
            "event_url": self.event_url,
            "to": self.to_number,
            "from": from_number,
            "api_key": self.account.api_key,
            "application_id": self.account.application_id,
            "signature_secret": self.account.signature_secret,
        }


def find_target(url: str, *, to_number: str | None, provider_ms: float | None) -> Target:
    """Ask the platform who it is. Raises TargetError."""
    url = url.rstrip("/")
    health = _health(url)
    deadline = time.monotonic() + CAPACITY_TIMEOUT_S
    while (health.get("capacity") or {}).get("slots") == 0:
        # Just started: its first sessions are not there yet, and would refuse the first calls.
        if time.monotonic() > deadline:
            raise TargetError(f"the platform at {url} has had no session for {CAPACITY_TIMEOUT_S:g} s")
        time.sleep(1)
        health = _health(url)
    simulators_url = health.get("runtime", {}).get("simulators_url")
    if provider_ms is None and simulators_url is not None:
        provider_ms = _fixed_wait_ms(simulators_url)
    return Target(
        url=url,
        account=_account(simulators_url),
        to_number=to_number or os.environ.get("VONAGE_FROM_NUMBER") or "+12015550100",
        announce_url=simulators_url,
        fixed_wait_ms=provider_ms,
    )


def _health(url: str) -> dict[str, Any]:
    try:
        document = requests.get(f"{url}/health", timeout=TIMEOUT_S).json()
    except (requests.RequestException, ValueError) as error:
        raise TargetError(f"no platform answers at {url} ({type(error).__name__})") from error
    return document if isinstance(document, dict) else {}


def _account(simulators_url: str | None) -> Account:
    given = [os.environ.get(name) for name in _ACCOUNT]
    if all(given):
        return Account(*(value or "" for value in given))
    document = _local_network(simulators_url)
    if document is None:
        raise TargetError(
            f"who signs the network's webhooks? Set {', '.join(_ACCOUNT)} as the platform has them; for a local "
            f"platform of this machine, PARLEY_DATA_DIR to its data folder"
        )
    return Account(document["api_key"], document["application_id"], document["signature_secret"])


def _local_network(simulators_url: str | None) -> dict[str, Any] | None:
    """The account of this machine's own platform, if that is who answers with these simulators.

    A file that another platform left behind must not sign for this one.
    """
    file = load_settings().data_dir.expanduser().resolve() / SIMULATED_NETWORK_FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    local = simulators_url is not None and document.get("simulators_url") == simulators_url
    return document if local else None


def _fixed_wait_ms(simulators_url: str) -> float | None:
    try:
        found = requests.get(f"{simulators_url}/sim/ready", timeout=TIMEOUT_S).json().get("fixed_wait_ms")
    except (requests.RequestException, ValueError):
        return None
    return None if found is None else float(found)


def find_api_key(given: str | None, target: Target) -> str | None:
    """`given`, else PARLEY_API_KEY, else a key for an hour where the target is the platform of this machine.

    A key of this machine's database says nothing to a platform elsewhere.
    """
    key = given or os.environ.get("PARLEY_API_KEY")
    if key:
        return key
    if _local_network(target.announce_url) is None:
        return None
    # In a process of its own: the database's event loop and gevent do not share one.
    program = "import asyncio; from serve_app.cli.client import api_key; print(asyncio.run(api_key()))"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return made.stdout.strip().splitlines()[-1] if made.returncode == 0 and made.stdout.strip() else None
