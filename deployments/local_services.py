"""The one named Ray actor that owns the local services of a platform on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from serve_app.errors import SettingsError, UnavailableError
from serve_app.local_endpoints import LocalEndpoints

NAME = "parley-local-services"
NAMESPACE = "parley"
START_TIMEOUT_S = 60


class _LocalServicesActor:
    """Holds the process `serve_app.local_services` by its standard input: with the actor it ends, too."""

    def __init__(self, config: str | None) -> None:
        environment = dict(os.environ)
        if config is not None:
            environment["PARLEY_CONFIG"] = config
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serve_app.local_services"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._answer: dict[str, object] = json.loads(line) if line else {"error": "the local services ended at once"}

    def endpoints(self) -> dict[str, object]:
        code = self._process.poll()
        if code is not None and "error" not in self._answer:
            # Whoever asks ends this actor then, and the next one to ask starts them anew.
            return {"error": f"they ended with code {code}; start the platform again"}
        return self._answer

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)


def start_local_services(config: Path | None) -> Any:
    """The actor, which the first caller of the cluster creates; it may not be ready yet."""
    actor_class: Any = ray.remote(num_cpus=0, max_restarts=0)(_LocalServicesActor)
    # Detached: replicas come and go, their Redis must stay. It ends with the Ray cluster.
    return actor_class.options(name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached").remote(
        str(config) if config is not None else None
    )


async def local_endpoints(config: Path | None) -> LocalEndpoints:
    """The endpoints of this cluster's local services, once they are ready. Raises ParleyError."""
    actor = start_local_services(config)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            answer = await actor.endpoints.remote()
    except (RayActorError, RayTaskError) as error:
        raise UnavailableError(f"the local services did not start: {error}") from error
    except TimeoutError as error:
        raise UnavailableError(f"the local services did not start within {START_TIMEOUT_S} s") from error
    if "error" in answer:
        ray.kill(actor)
        raise SettingsError(f"local services: {answer['error']}")
    return LocalEndpoints.model_validate(answer)
