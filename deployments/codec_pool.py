"""CodecPool: audio work in bulk, stateless. It gets object keys, never audio of a live frame."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from deployments.config import AppArgs, complete_settings
from serve_app.audio.mix import mix_recording
from serve_app.audio.wavfile import FileFormat
from serve_app.log import configure_logging
from serve_app.malloc import give_back_large_buffers
from serve_app.store.objects import ObjectStore


@serve.deployment(name="CodecPool")
class CodecPool:
    """Any replica takes any piece."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        give_back_large_buffers()
        settings, _ = await complete_settings(args)
        configure_logging(settings.log)
        self._objects = ObjectStore.open(settings.objects.url, settings.data_dir.expanduser().resolve())

    async def mix(
        self, parts_prefix: str, out_key: str, sample_rate_hz: int, duration_s: float | None, file_format: FileFormat
    ) -> dict[str, Any]:
        """Mix the parts under a prefix into one stereo file (callee left, agent right) and store it.

        Returns key, format, channels, sample_rate_hz, duration_s, bytes, peaks. Running it again gives the same file.
        """
        keys = await self._objects.list(parts_prefix)
        parts = [(key, await self._objects.get(key)) for key in sorted(keys)]
        mixed = await asyncio.to_thread(mix_recording, parts, sample_rate_hz, duration_s, file_format)
        await self._objects.put(out_key, mixed.audio)
        return {
            "key": out_key,
            "format": mixed.file_format,
            "channels": mixed.channels,
            "sample_rate_hz": mixed.sample_rate_hz,
            "duration_s": mixed.duration_s,
            "bytes": len(mixed.audio),
            "peaks": mixed.peaks,
        }
