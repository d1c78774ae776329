"""Where files are scored: on this machine, or on a Dask cluster. What is handed out is files, never rows."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from anomalyvae.scoring.one_file import Outcome, Work, score_file


def local(work: Work, names: list[str], workers: int, scheduler: str | None = None) -> Iterator[Outcome]:
    """Score files with the threads of this process, several at the same time; tells of every slab."""
    if scheduler is not None:
        raise ValueError(f"Got scheduler={scheduler!r} with engine='local', expected engine='dask'. Pass that.")
    events: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
    waiting, stopped = iter(names), threading.Event()
    lock = threading.Lock()

    def drive() -> None:
        try:
            while not stopped.is_set():
                with lock:
                    name = next(waiting, None)
                if name is None:
                    break
                for outcome in score_file(work, name, scorers):
                    events.put(outcome)
                    if stopped.is_set():
                        break
        except BaseException as error:  # told to whoever waits
            events.put(error)
        finally:
            events.put(None)

    drivers = min(workers, len(names))
    with ThreadPoolExecutor(workers) as scorers, ThreadPoolExecutor(max(drivers, 1)) as readers:
        try:
            for _ in range(drivers):
                readers.submit(drive)
            while drivers:
                event = events.get()
                if event is None:
                    drivers -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield event
        finally:
            stopped.set()


def dask(work: Work, names: list[str], workers: int, scheduler: str | None = None) -> Iterator[Outcome]:
    """Score files on a Dask cluster; tells of each file that is done. A lost worker's files are done by others."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ModuleNotFoundError as error:
        raise ImportError(f"Got no {error.name}, expected Dask. Run: pip install 'anomalyvae[dask]'.") from error

    cluster: Any = scheduler or LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    )
    try:
        with Client(cluster, set_as_default=False) as client:
            futures = client.map(score_whole, [work] * len(names), names, pure=False, retries=_RETRIES)
            files = dict(zip(futures, names, strict=True))
            suspects = []  # those whose workers died, one after the other: the culprit, and what waited behind it
            for future in as_completed(futures, loop=client.loop):
                if future.status == "finished":
                    yield future.result()
                else:
                    suspects.append(files[future])
            for name in suspects:
                future = client.submit(score_whole, work, name, pure=False)
                died = future.exception()
                yield future.result() if died is None else Outcome(name, "failed", error=_DEADLY.format(died))
    finally:
        if scheduler is None:
            cluster.close()


_RETRIES = 3
_DEADLY = "It ended every worker that took it, as one without memory ends ({}). Score it alone, with more memory."


def score_whole(work: Work, name: str) -> Outcome:
    """`score_file` in a process of its own: what came of it in the end."""
    with ThreadPoolExecutor(1) as pool:
        *_, outcome = score_file(work, name, pool)
    return outcome


ENGINES: dict[str, Callable[[Work, list[str], int, str | None], Iterator[Outcome]]] = {"local": local, "dask": dask}
