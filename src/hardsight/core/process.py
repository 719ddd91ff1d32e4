"""Which process this is, on which machine, and whether another one still runs: for files on a folder that several machines share."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path


def token() -> str:
    """This process, unlike every other one: MACHINE-PID-START, letters, digits and two dashes."""
    return f"{machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"


def runs(other: str) -> bool | None:
    """Whether the process of a `token` still runs; None if that can't be told, as it is on another machine."""
    there, _, rest = other.partition("-")
    pid, _, started = rest.partition("-")
    if there != machine() or not pid.isdigit():
        return None
    if Path("/proc/self/stat").exists():
        return _started(int(pid)) == started
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def machine() -> str:
    """8 hexadecimal digits: the host's name, when it was started, and the container, since process numbers are those of a container."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks, since process numbers are used again; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
