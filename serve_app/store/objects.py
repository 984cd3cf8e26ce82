"""The object store of recordings: a local folder, or S3, GCS or Azure by URL."""

from __future__ import annotations

from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from serve_app.errors import UnavailableError

LOCAL_FOLDER = "objects"
_PART_BYTES = 1 << 20
Backend = obstore.store.ObjectStore


class ObjectStore:
    """Keys are relative paths with `/`. Every method raises UnavailableError when the store does not answer."""

    def __init__(self, backend: Backend, name: str, root: Path | None) -> None:
        self._backend = backend
        self._root = root
        self.name = name
        """The URL or folder, for messages."""

    @classmethod
    def open(cls, url: str | None, data_dir: Path) -> ObjectStore:
        """The store at `url` (`s3://bucket/prefix`, `gs://`, `az://`), else a folder below `data_dir`."""
        if url:
            try:
                return cls(from_url(url), url, None)
            except (BaseError, ValueError) as error:
                raise UnavailableError(f"object store {url} cannot be opened: {error}; check objects.url") from error
        root = (data_dir / LOCAL_FOLDER).absolute()
        return cls(LocalStore(root, mkdir=True), str(root), root)

    async def put(self, key: str, data: bytes) -> None:
        """Write or replace, whole or not at all."""
        try:
            await self._backend.put_async(key, data)
        except (BaseError, OSError) as error:
            raise self._failed("write", key, error) from error

    async def get(self, key: str) -> bytes:
        """Raises FileNotFoundError for a key that is not there."""
        try:
            result = await self._backend.get_async(key)
            return bytes(await result.bytes_async())
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise self._failed("read", key, error) from error

    async def put_file(self, key: str, path: Path) -> None:
        """Write or replace from a file, in parts: never all of it in memory."""
        try:
            await self._backend.put_async(key, path)
        except (BaseError, OSError) as error:
            raise self._failed("write", key, error) from error

    async def fetch(self, key: str, path: Path) -> None:
        """Into a file, in parts. Raises FileNotFoundError for a key that is not there."""
        try:
            result = await self._backend.get_async(key)
            with path.open("wb") as file:
                async for part in result.stream(min_chunk_size=_PART_BYTES):
                    file.write(part)
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            raise self._failed("read", key, error) from error

    async def delete(self, keys: list[str]) -> None:
        """A key that is not there is not an error."""
        for key in keys:
            try:
                await self._backend.delete_async(key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise self._failed("delete", key, error) from error

    async def list(self, prefix: str) -> list[str]:
        """The keys below the folder `prefix`, sorted."""
        try:
            batches = [batch async for batch in self._backend.list(prefix)]
        except (BaseError, OSError) as error:
            raise self._failed("list", prefix, error) from error
        return sorted(str(item["path"]) for batch in batches for item in batch)

    def local_path(self, key: str) -> Path | None:
        """The file of a key in a local store; None elsewhere, and for a key that leads out of the store."""
        if self._root is None:
            return None
        path = (self._root / key).resolve()
        return path if path.is_relative_to(self._root.resolve()) else None

    def _failed(self, action: str, key: str, error: Exception) -> UnavailableError:
        return UnavailableError(f"object store {self.name}: cannot {action} {key}: {error}")
