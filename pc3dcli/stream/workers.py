# SPDX-License-Identifier: Apache-2.0
"""Worker processes of the scene runner: where their lines wait, and how they end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from pc3dcli.stream.writer import SPOOL_PREFIX


@contextmanager
def spool_folder(parent: Path | None) -> Iterator[Path]:
    """Make a folder for the spools of worker processes; a later run removes that of a killed one."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=SPOOL_PREFIX, suffix=f".{os.getpid()}.tmp", dir=parent) as name:
        yield Path(name)


@contextmanager
def worker_pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Open worker processes; on any way out but the normal one they are stopped, whatever they are doing."""
    others = multiprocessing.active_children()
    resource_tracker.ensure_running()  # it must not inherit the held signal
    start = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    pool = ProcessPoolExecutor(jobs, mp_context=start, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Start processes with Ctrl-C blocked: it reaches the whole group, and the parent alone answers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    """End with the parent even when it is killed, be it before this."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
