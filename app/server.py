"""Serving the page: one process, this machine only unless told otherwise.

A page in another tab must not reach this server, neither by posting to it nor by pointing a name
of its own at 127.0.0.1 (DNS rebinding). So a request has to name a host that this server goes by,
and one that a browser sends on behalf of a page has to come from our own page.
"""

import errno
import ipaddress
import os
import re
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import Future
from typing import Any

from models.errors import ErrorKind, UserError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_MESSAGE = 64 * 2**20
"""Bytes of a message of the page: pictures come in one."""
SHUTDOWN_SECONDS = 2
"""How long Ctrl-C waits for open connections."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_POLICY = (
    ("default-src", "'self'"),
    # Plotly, Mantine and AG Grid set styles from code.
    ("style-src", "'self' 'unsafe-inline'"),
    ("img-src", "'self' data: blob:"),
    ("font-src", "'self' data:"),
    ("worker-src", "'self' blob:"),
    ("object-src", "'none'"),
    ("base-uri", "'none'"),
    ("form-action", "'none'"),
    ("frame-ancestors", "'none'"),
)
"""The content security policy, less what depends on the page and the request."""

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

ANY_ADDRESS = "*"
"""Stands among a server's names for every plain IP address."""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address reaches this machine only."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Take the port, so that a taken one is reported before a model is loaded.

    Returns:
        A listening socket.

    Raises:
        UserError: the port is taken or not allowed, or there is no such address here.
    """
    if not 0 <= port <= 65535:
        raise UserError(ErrorKind.OPTION, f"--port must be from 0 to 65535, not {port}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError(
            ErrorKind.OPTION,
            f"There is no address {host!r} on this machine; give --host another one, such as "
            "127.0.0.1.",
        ) from None
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UserError(ErrorKind.OPTION, _bind_sentence(host, port, error)) from None
    return listening


def links(host: str, port: int) -> list[str]:
    """Return the addresses to open in a browser."""
    if host in ("0.0.0.0", "::", ""):
        return [f"http://127.0.0.1:{port}/", f"http://{socket.gethostname()}:{port}/"]
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return [f"http://{shown}:{port}/"]


def serve(
    asgi_app: Any,
    host: str,
    port: int,
    open_browser: bool = False,
    *,
    listening: socket.socket | None = None,
    announce: Callable[[], None] | None = None,
    needed: Future[None] | None = None,
) -> None:
    """Serve until Ctrl-C (or SIGTERM). To be called from the main thread.

    Args:
        asgi_app: what `guarded` returned.
        listening: what `bind` returned; None to bind here.
        announce: called when everything is ready and Ctrl-C ends the server, at any moment.
        needed: what goes on meanwhile and must succeed; should it fail, serving ends with its
            error.

    Raises:
        UserError: see `bind`.
    """
    import uvicorn

    with listening or bind(host, port) as taken:
        config = uvicorn.Config(
            asgi_app,
            log_level="warning",
            access_log=False,  # a link carries a prompt
            proxy_headers=False,
            server_header=False,
            ws_max_size=LARGEST_MESSAGE,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        if open_browser:
            # The socket listens already: a browser that is faster than the server waits for it.
            url = links(host, taken.getsockname()[1])[0]
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        # Not by a KeyboardInterrupt: one that falls into a destructor or a callback of the
        # interpreter is swallowed, and the server would go on. uvicorn puts its own handlers in
        # place of these while it runs, and repeats the signal to these at its end.
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, stop)
        if needed is not None:
            if needed.done():
                needed.result()
            needed.add_done_callback(lambda ended: stop() if ended.exception() else None)
        if announce is not None:
            announce()
        server.run(sockets=[taken])
        if needed is not None and needed.done():
            needed.result()


def guarded(asgi_app: AsgiApp, host: str, script_hashes: Sequence[str] = ()) -> AsgiApp:
    """Wrap an ASGI app so that only our own page, under our own names, gets through.

    Args:
        host: what the server is bound to. On a loopback address only names of the loopback are
            answered; otherwise also `host` itself, the machine's name, and plain IP addresses
            (rebinding needs a name).
        script_hashes: sources to allow for inline scripts, such as "'sha256-...'".
    """
    names = frozenset() if is_loopback(host) else _machine_names(host)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await asgi_app(scope, receive, send)
            return
        headers = _headers(scope)
        problem = _host_problem(headers, names) or _site_problem(scope, headers)
        if problem is None:
            policy = _content_policy(headers["host"][0], script_hashes)
            await asgi_app(scope, receive, _with_headers(send, policy))
        else:
            await _refuse(scope, send, problem)

    return app


def _machine_names(host: str) -> frozenset[str]:
    """Names by which others may call a server that is not bound to a loopback address."""
    machine = socket.gethostname().lower()
    return frozenset({host.strip("[]").lower(), machine, f"{machine}.local", ANY_ADDRESS})


def _headers(scope: Scope) -> dict[str, list[str]]:
    """Header name in lower case -> its values."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _host_problem(headers: dict[str, list[str]], names: frozenset[str]) -> str | None:
    """Say why the Host header is not one that this server goes by; None if it is."""
    values = headers.get("host", [])
    match = _HOST.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return "The request needs one valid Host header."
    name = match[1].strip("[]").lower()
    if is_loopback(name) or name in names or (ANY_ADDRESS in names and _is_address(name)):
        return None
    return "This server does not answer to that host name; open the link that it printed."


def _site_problem(scope: Scope, headers: dict[str, list[str]]) -> str | None:
    """Say why a request that a browser sent for a page of another site is refused; None if not."""
    origins = headers.get("origin", [])
    ours = all(_is_same_origin(origin, headers["host"][0]) for origin in origins)
    if scope["type"] == "websocket":
        # Browsers put an Origin on every websocket, and only our page opens one here: a client
        # that leaves it out is refused as well, so that no browser which might is let through.
        return None if origins and ours else "Websockets are for this server's own page."
    if _is_navigation(scope, headers):
        return None
    # "same-site" includes any other server on this machine: ports do not tell sites apart.
    site = headers.get("sec-fetch-site", ["none"])
    if ours and set(site) <= {"same-origin", "none"}:
        return None
    return "Requests from pages of other sites are refused."


def _is_navigation(scope: Scope, headers: dict[str, list[str]]) -> bool:
    """Whether a person followed a link: it only reads, and the other site sees nothing of it."""
    return (
        scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == ["navigate"]
        and headers.get("sec-fetch-dest") == ["document"]
    )


def _is_same_origin(origin: str, host_header: str) -> bool:
    match = _ORIGIN.fullmatch(origin)
    if match is None:  # also "null", of sandboxed pages and files
        return False
    scheme, host = match[1].lower(), match[2]
    return _with_port(host, scheme) == _with_port(host_header, scheme) is not None


def _with_port(host: str, scheme: str) -> tuple[str, str] | None:
    match = _HOST.fullmatch(host)
    return None if match is None else (match[1].lower(), match[2] or _DEFAULT_PORTS[scheme])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _content_policy(host_header: str, script_hashes: Sequence[str]) -> str:
    """The content security policy of one answer. The Host header has been checked by then."""
    scripts = ("script-src", " ".join(["'self'", *script_hashes]))
    # Some browsers do not count a websocket to the page's own host as 'self'.
    sockets = ("connect-src", f"'self' ws://{host_header} wss://{host_header}")
    return "; ".join(f"{name} {sources}" for name, sources in (*_POLICY, scripts, sockets))


def _with_headers(send: Send, policy: str) -> Send:
    """Add the security headers to what is answered."""
    extra = [*_SECURITY_HEADERS, (b"content-security-policy", policy.encode("latin-1"))]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, problem: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return
    body = problem.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *_SECURITY_HEADERS,
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _bind_sentence(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is taken by another program; choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used by this user; choose one above 1023 with --port."
    return (
        f"Cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); choose another "
        "--host or --port."
    )
