"""The job `mix_recording`: the parts of an ended call become one stereo file."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from serve_app.audio.mix import PartPlace, parts_prefix
from serve_app.jobs.runner import JobFailed
from serve_app.store.db import Database
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import CallRow, Calls, JobRow, Recordings

FALLBACK_RATE_HZ = 16000


class Mix(Protocol):
    """The codec pool: reads the parts below `prefix`, writes `out_key`, both in the object store.

    Returns {format, channels, sample_rate_hz, duration_s, bytes, peaks}.
    """

    async def __call__(
        self, prefix: str, out_key: str, rate_hz: int, duration_s: float | None, file_format: str, /
    ) -> dict[str, Any]: ...


class MixRecording:
    """Handler of the job. Idempotent: mixing again overwrites the same file and row."""

    def __init__(
        self, db: Database, objects: ObjectStore, mix: Mix, *, file_format: Literal["flac", "wav"] = "flac"
    ) -> None:
        self._db = db
        self._objects = objects
        self._mix = mix
        self._format = file_format

    async def __call__(self, job: JobRow) -> None:
        call = await Calls(self._db, job.tenant_id).get(str(job.payload["call_id"]))
        if call is None:
            raise JobFailed("there is no such call")
        prefix = parts_prefix(call.tenant_id, call.id)
        out_key = f"recordings/{call.tenant_id}/{call.id}/call.{self._format}"
        mixed = await self._mix(prefix, out_key, await self._rate_hz(call, prefix), call.duration_s, self._format)
        await Recordings(self._db, call.tenant_id).put(
            call.id,
            key=out_key,
            format=mixed["format"],
            channels=mixed["channels"],
            sample_rate_hz=mixed["sample_rate_hz"],
            duration_s=mixed["duration_s"],
            bytes=mixed["bytes"],
            peaks=mixed["peaks"],
        )

    async def _rate_hz(self, call: CallRow, prefix: str) -> int:
        if call.sample_rate_hz is not None:
            return call.sample_rate_hz
        # The session died before it could say; its parts know.
        keys = await self._objects.list(prefix)
        return PartPlace.parse(keys[0]).rate_hz if keys else FALLBACK_RATE_HZ
