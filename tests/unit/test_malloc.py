"""Large buffers go back to the system, also after a larger one was freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = """
import ctypes, sys
from serve_app.malloc import give_back_large_buffers

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if sys.argv[1] == "set" and not give_back_large_buffers():
    sys.exit("mallopt was refused")
large = bytearray(8 << 20)
del large
mapped = libc.mallinfo2().hblkhd
buffer = bytearray(1 << 20)
print(libc.mallinfo2().hblkhd - mapped >= len(buffer))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
@pytest.mark.parametrize(("setting", "mapped"), [("set", "True"), ("left", "False")])
def test_a_large_buffer_is_mapped_by_itself(setting: str, mapped: str) -> None:
    """Left alone it is not, or the setting would be for nothing."""
    found = subprocess.run([sys.executable, "-c", _PROBE, setting], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout.strip()) == (0, mapped), found.stderr
