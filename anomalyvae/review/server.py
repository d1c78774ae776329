"""``anomalyvae review``: serves the queue as a web page.

Starlette on uvicorn are two small packages with a server that may face a network, and endpoints that are plain
functions on threads, which suits a database and a forward pass. The page needs no build step.

Four things protect the page: a token, if other machines can reach it; a check of the ``Host`` header, against DNS
rebinding; a check of the ``Origin`` header on all requests that write, against cross-site request forgery; and a
content security policy that allows no foreign script. Text from the database and from files becomes text nodes, never
markup.
"""

import asyncio
import hashlib
import ipaddress
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Unpack
from urllib.parse import urlsplit

from anomalyvae.lazy import not_installed
from anomalyvae.options import ReadOptions
from anomalyvae.review.database import VERDICTS
from anomalyvae.review.evidence import Evidence, plain
from anomalyvae.review.listing import STATUSES, Filter, Listing, marks, row_of
from anomalyvae.review.queue import Queue
from anomalyvae.untrusted import printable

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, RedirectResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise not_installed(error, "the review page", "anomalyvae[review]") from error

_log = logging.getLogger("uvicorn.error")

_PAGES = {"/": "review.html"} | {
    f"/{name}": name for name in ("review.js", "state.js", "list.js", "drawing.js", "review.css", "icon.svg")
}
_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_ANY = ("0.0.0.0", "::")  # noqa: S104 - all addresses of this machine
_BODY_BYTES, _NOTE, _NAME = 65536, 4000, 80  # longest request, note and reviewer's name
_BODY_S = 30  # for a slow client
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(
    queue: str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    scores: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    reviewer: str = "",
    ready: Callable[[str], None] = print,
    **options: Unpack[ReadOptions],
) -> None:
    """Serve the review page until an interrupt (Ctrl+C).

    Parameters
    ----------
    queue : str or path
        An existing queue; see `Queue`.
    model : path
        The bundle that flagged the events.
    source : path, optional
        Folder of the recordings; by default the folders that the events name.
    scores : path, optional
        Folder of the scores, for the timelines.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.
    host : str, default="127.0.0.1"
        Address to listen on. If other machines can reach it, the page needs a token, a new one each time. The page is
        plain HTTP: in a network that you do not trust, listen on loopback and use a tunnel (``ssh -L``).
    port : int, default=8765
        0 chooses a free port.
    reviewer : str, default=""
        Name that the page suggests for the reviewer, if only this machine can reach it.
    ready : callable
        Called with the page's address once it is open.

    Raises
    ------
    FileNotFoundError
        If the queue or the bundle does not exist.
    OSError
        If the server cannot listen on the address.
    """
    listener = _listen(host, port)
    with listener, Queue(queue, create=False) as opened:
        listing = Listing(opened)
        threading.Thread(target=_prepare, args=(listing,), daemon=True).start()
        sources: list[str | os.PathLike[str]] = [source] if source is not None else [*opened.sources()]
        token = None if _is_loopback(host) else secrets.token_urlsafe(32)
        proposed = reviewer if token is None else ""  # people at other machines have other names
        evidence = Evidence(model, sources, scores, **options)
        app = create_app(opened, evidence, host=host, token=token, reviewer=proposed, listing=listing)
        shown = socket.gethostname() if host in _ANY else f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}/"
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
        server = uvicorn.Server(config)
        with _closed_by_interrupt(server):
            ready(address if token is None else f"{address}?token={token}")
            server.run(sockets=[listener])


@contextmanager
def _closed_by_interrupt(server: uvicorn.Server) -> Iterator[None]:
    """An interrupt closes the server from now on.

    The server handles it once it runs. Python raises it before, where the code that imports modules may ignore it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, server.handle_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def create_app(
    queue: Queue,
    evidence: Evidence,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    reviewer: str = "",
    listing: Listing | None = None,
) -> Starlette:
    """The page as an ASGI application.

    Other names than ``host`` in the ``Host`` header are refused, and so are requests without the ``token``, which is
    passed once, as ``/?token=…``, and kept in a cookie.
    """
    pages = {path: _page(name) for path, name in _PAGES.items()}
    api = _Api(queue, evidence, listing or Listing(queue), reviewer)
    one = "/api/events/{name}"
    return Starlette(
        routes=[
            *(Route(path, lambda request: pages[request.url.path]) for path in _PAGES),
            Route("/api/events", api.events),
            Route("/api/map", api.latent_map),
            Route(one, api.event),
            Route(f"{one}/signals", api.signals),
            Route(f"{one}/timeline", api.timeline),
            Route(f"{one}/verdict", api.verdict, methods=["POST"]),
            Route(f"{one}/undo", api.undo, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard, host=host, token=token)],
        exception_handlers={
            HTTPException: lambda _, error: _failure(error.status_code, error.detail),
            PermissionError: lambda _, error: _failure(HTTPStatus.FORBIDDEN, str(error)),
            FileNotFoundError: lambda _, error: _failure(HTTPStatus.NOT_FOUND, str(error)),
            ValueError: lambda _, error: _failure(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)),
            OSError: lambda _, error: _failure(HTTPStatus.SERVICE_UNAVAILABLE, str(error)),  # the queue, locked or full
        },
        max_body_size=_BODY_BYTES,
    )


@dataclass(frozen=True)
class _Api:
    """The answers to the requests of the page."""

    queue: Queue
    evidence: Evidence
    listing: Listing
    reviewer: str  # that the page suggests

    def events(self, request: Request) -> Response:
        """The events that pass a filter, and what the page needs to show them."""
        asked = request.query_params
        wanted = Filter(**{name: asked[name] for name in Filter.__annotations__ if name in asked})
        if wanted.status not in STATUSES:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"status is one of {', '.join(STATUSES)}")
        part = self.listing.part(wanted, asked.get("current", ""))
        known = asked.get("known") == str(part["total"])  # the page has the names of the recordings
        return JSONResponse(
            part
            | {
                "recordings": None if known else self.listing.recordings(),
                "verdicts": VERDICTS,
                "model_id": self.evidence.model_id,
                "caution": self.evidence.caution,
                "reviewer": self.reviewer,
            }
        )

    def event(self, request: Request) -> Response:
        """One event, its verdicts so far, and the most similar event."""
        name = request.path_params["name"]
        found, history = self._event(name), self.queue.history(name).astype(object).to_dict("records")
        nearest = self.listing.mark(found["nearest"])
        return JSONResponse(plain({"event": found, "history": history}) | {"nearest": nearest})

    def signals(self, request: Request) -> Response:
        """The signals around an event."""
        around = request.query_params.get("around_s")
        try:
            around_s = None if around is None else min(max(float(around), 0.0), 3600.0)
        except ValueError:
            raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "around_s is a number of seconds") from None
        return JSONResponse(self.evidence.signals(self._event(request.path_params["name"]), around_s))

    def timeline(self, request: Request) -> Response:
        """The scores of an event's recording over time."""
        found = self._event(request.path_params["name"])
        line = self.evidence.timeline(found)
        return JSONResponse(line and line | self.listing.of_recording(found))

    def latent_map(self, request: Request) -> Response:
        """The latent codes of events and of training windows."""
        shown = self.listing.of_map(request.query_params.get("current", ""))
        return JSONResponse(self.evidence.latent_map(shown) | {"marks": marks(shown)})

    async def verdict(self, request: Request) -> Response:
        """Record a verdict; the answer has the one of somebody else that it overrules unseen."""
        said = await _said(request)
        name = request.path_params["name"]
        await asyncio.to_thread(self._event, name)
        before = await asyncio.to_thread(self.queue.give, name, said["verdict"], said["reviewer"], said["note"])
        current = row_of(await asyncio.to_thread(self._event, name))
        return JSONResponse(current | {"overruled": _unseen(before, said)})

    async def undo(self, request: Request) -> Response:
        """Take a verdict back."""
        said = await _said(request)
        name = request.path_params["name"]
        await asyncio.to_thread(self._undo, name, said["reviewer"], said["reviewed_at"])
        return JSONResponse(row_of(await asyncio.to_thread(self._event, name)))

    def _event(self, name: str) -> dict[str, Any]:
        try:
            return self.queue.event(name)
        except ValueError as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, str(error)) from None

    def _undo(self, name: str, reviewer: str, reviewed_at: str) -> None:
        """Take back the verdict that the page showed, unless somebody has given another since."""
        if self._event(name)["reviewed_at"] != reviewed_at:
            raise HTTPException(HTTPStatus.CONFLICT, "Somebody has given another verdict since. Look at it first.")
        self.queue.undo(name, reviewer)


def _prepare(listing: Listing) -> None:
    """Read the queue while the page opens. What fails here fails at the page's first request, which says why."""
    with suppress(Exception):
        listing.prepare()


def _unseen(before: dict[str, Any] | None, said: Mapping[str, str]) -> dict[str, Any] | None:
    """The previous verdict, if it is somebody else's and the reviewer's page did not show it yet."""
    if before is None or before["reviewed_at"] == said["reviewed_at"]:
        return None
    return None if any(before[key] == said[key] for key in ("reviewer", "verdict")) else before


async def _said(request: Request) -> dict[str, str]:
    """The fields of a request's body: text of limited length."""
    try:
        async with asyncio.timeout(_BODY_S):
            body = await request.json()
        said = {key: body.get(key, "") for key in ("verdict", "reviewer", "note", "reviewed_at")}
    except (AttributeError, ValueError, RecursionError):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "The body is not a JSON object.") from None
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The body took too long. Send it again.") from None
    if not all(isinstance(value, str) for value in said.values()):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "All fields must be text.")
    if len(said["note"]) > _NOTE or not 0 < len(said["reviewer"].strip()) <= _NAME:
        raise HTTPException(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"The note has {len(said['note'])} characters and your name {len(said['reviewer'].strip())}; allowed are "
            f"at most {_NOTE} and 1 to {_NAME}. Shorten them.",
        )
    return said | {"reviewer": said["reviewer"].strip()}


class _Guard:
    """Refuses foreign requests before anything else sees them, and adds the security headers to all responses."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app, self._token = app, token
        self._loopback = _is_loopback(host)
        own = set() if self._loopback else {host, socket.gethostname(), socket.getfqdn()}
        self._names = {name.lower() for name in own | {"localhost"}}
        self._cookie = f"review_{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(True)
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            return  # no web sockets
        try:
            await (self._refusal(Request(scope)) or self._app)(scope, receive, send_with_headers)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception as error:  # one request must not fill the terminal, nor end the page
            _log.error("%s: %s", printable(scope["path"]), printable(f"{type(error).__name__}: {error}"))
            if not started:
                text = "The page failed at this request; its terminal says why."
                await _failure(HTTPStatus.INTERNAL_SERVER_ERROR, text)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if not self._is_ours(request.headers.get("host", "")):
            return _failure(HTTPStatus.MISDIRECTED_REQUEST, "The page is not served under this name.")
        if request.method not in ("GET", "HEAD"):
            origin = urlsplit(request.headers.get("origin", "")).netloc
            if not origin or origin != request.headers["host"]:
                return _failure(HTTPStatus.FORBIDDEN, "Only the page itself may send verdicts.")
            if request.headers.get("content-type") != "application/json":
                return _failure(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send JSON.")
        if self._token is None or self._fits(request.cookies.get(self._cookie, "")):
            return None
        if request.url.path == "/" and self._fits(request.query_params.get("token", "")):
            entered = RedirectResponse("/", HTTPStatus.SEE_OTHER)  # takes the token out of the address bar
            entered.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return entered
        return _failure(HTTPStatus.UNAUTHORIZED, "Open the address with the token that 'anomalyvae review' printed.")

    def _is_ours(self, header: str) -> bool:
        """Whether a Host header is one of our names. Numeric addresses pass: DNS rebinding needs a name."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or not self._loopback
        except ValueError:
            return False

    def _fits(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), str(self._token).encode())


def _failure(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _page(name: str) -> Response:
    content = files("anomalyvae.review").joinpath("pages", name).read_bytes()
    return Response(content, media_type=_KINDS[name.partition(".")[2]])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"Cannot listen on host {host}, port {port} ({error.strerror}). Pass another --port.") from error
