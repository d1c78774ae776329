"""Where files are scored: on this machine, or on a Dask cluster. The unit of work is a file."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from anomalyvae.lazy import not_installed
from anomalyvae.scoring.one_file import Outcome, Work, score_file

_RETRIES = 3
_NO_WORKER_S, _LOOK_S = 60.0, 1.0  # a cluster without a worker for so long is given up; time between two looks
_DEADLY = "Every worker that took it died, as one does that is out of memory ({}). Score it alone, with more memory."


def local(work: Work, names: list[str], workers: int, scheduler: str | None = None) -> Iterator[Outcome]:
    """Score files with threads of this process, several at a time; yields an outcome after every batch."""
    if scheduler is not None:
        raise ValueError(
            f"Got scheduler={scheduler!r} with engine='local'; it needs engine='dask' (--engine). Pass that."
        )
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    stopped = threading.Event()
    threads: set[int] = set()  # that read files

    def score(name: str) -> None:
        threads.add(threading.get_ident())
        for outcome in score_file(work, name, scorers):
            outcomes.put(outcome)
            if stopped.is_set():
                return

    with ThreadPoolExecutor(workers) as scorers, ThreadPoolExecutor(workers) as readers:
        try:
            running = [readers.submit(score, name) for name in names]
            waiting = len(names)
            while waiting:
                outcome = outcomes.get()
                waiting -= outcome.status != "reading"
                yield outcome
        finally:
            stopped.set()
            readers.shutdown(wait=False, cancel_futures=True)
            guard = sys.modules.get("anomalyvae.recordings.guard")  # if it is not imported, no child is at work
            while guard is not None and not all(future.done() for future in running):
                guard.end_readers(threads)
                time.sleep(0.02)


def dask(work: Work, names: list[str], workers: int, scheduler: str | None = None) -> Iterator[Outcome]:
    """Score files on a Dask cluster; yields each finished file. Other workers repeat the files of a lost worker."""
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise not_installed(error, "engine='dask'", "anomalyvae[dask]") from error

    cluster: Any = scheduler or LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    try:
        with Client(cluster, set_as_default=False) as client:
            futures = client.map(score_whole, [work] * len(names), names, pure=False, retries=_RETRIES)
            files = dict(zip(futures, names, strict=True))
            suspects = []  # files whose workers died repeatedly: the cause, and files that waited behind it
            for future in _finished(client, futures):
                if future.status == "finished":
                    outcome = future.result()
                    future.release()  # or a lost worker's finished files are scored again
                    yield outcome
                else:
                    suspects.append(files[future])
            for name in suspects:  # one at a time, so that the cause shows
                (future,) = _finished(client, [client.submit(score_whole, work, name, pure=False)])
                died = future.exception()
                yield future.result() if died is None else Outcome(name, "failed", error=_DEADLY.format(died))
    finally:
        if scheduler is None:
            cluster.close()


def _finished(client: Any, futures: list[Any]) -> Iterator[Any]:
    """Futures as they finish; an error instead of waiting for ever for a cluster that has lost all its workers."""
    from distributed import as_completed

    waiting = as_completed(futures, loop=client.loop)
    looked = alive = time.monotonic()
    while not waiting.is_empty():
        if waiting.has_ready():
            yield next(waiting)
            continue
        time.sleep(0.02)
        if time.monotonic() - looked < _LOOK_S:  # each look asks the scheduler
            continue
        looked = time.monotonic()
        if client.scheduler_info()["workers"]:
            alive = looked
        elif looked - alive > _NO_WORKER_S:
            raise ConnectionError(
                f"The Dask cluster has had no worker for {_NO_WORKER_S:g} s. Finished files are kept: start workers, "
                "or run the same command with --engine local."
            )


def score_whole(work: Work, name: str) -> Outcome:
    """The last outcome of `score_file`, in a process of its own."""
    with ThreadPoolExecutor(1) as pool:
        *_, outcome = score_file(work, name, pool)
    return outcome


ENGINES: dict[str, Callable[..., Iterator[Outcome]]] = {"local": local, "dask": dask}
