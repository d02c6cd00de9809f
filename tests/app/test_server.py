"""The server answers its own page and nobody else: checks through a real server and socket."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import uvicorn
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.server import bind, guarded, is_loopback, links
from models.errors import ErrorKind, UserError


async def small_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers every request with "hello", and echoes one websocket message."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture(scope="module")
def local() -> Iterator[int]:
    """A server on the loopback address; its port."""
    yield from serving("127.0.0.1")


@pytest.fixture(scope="module")
def public() -> Iterator[int]:
    """A server that was told to answer others too; its port."""
    yield from serving("0.0.0.0")


def serving(host: str) -> Iterator[int]:
    listening = bind(host, 0)
    app = guarded(small_app, host, ["'sha256-abc'"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def ask(
    port: int, method: str = "GET", *, host: str | None = None, **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, "/", headers={"Host": host or f"127.0.0.1:{port}", **named})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:1", "127.1.2.3:80", "[::1]", "[::1]:8050"]
)
def test_own_names(local: int, public: int, host: str) -> None:
    assert ask(local, host=host)[:2] == (200, "hello")
    assert ask(public, host=host)[:2] == (200, "hello")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example:8050",
        "localhost, evil.example",
        "[::1",
        "*",
        " ",
    ],
)
def test_foreign_names(local: int, public: int, host: str) -> None:
    for port in (local, public):
        status, body, _ = ask(port, host=host)
        assert status == 403
        assert "hello" not in body


def test_other_addresses_only_when_told_so(local: int, public: int) -> None:
    for host in ("192.168.1.5:8050", "[fe80::1]", socket.gethostname()):
        assert ask(local, host=host)[0] == 403
        assert ask(public, host=host)[0] == 200


def test_no_host_or_two(local: int) -> None:
    for hosts in ([], ["localhost", "evil.example"]):
        connection = http.client.HTTPConnection("127.0.0.1", local, timeout=10)
        connection.putrequest("GET", "/", skip_host=True)
        for host in hosts:
            connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status in (400, 403)
        connection.close()


def test_the_page_itself(local: int) -> None:
    own = f"http://127.0.0.1:{local}"
    assert ask(local, "POST", Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert ask(local, "GET", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(local, "POST")[0] == 200  # a script of the user's, no browser
    assert ask(local, host="localhost", Origin="http://localhost:80")[0] == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://", ""],
)
def test_pages_of_other_sites(local: int, method: str, origin: str) -> None:
    assert ask(local, method, Origin=origin)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_other_sites_embed(local: int, site: str, method: str) -> None:
    headers = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "script"}
    assert ask(local, method, **headers)[0] == 403
    frame = {**headers, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    assert ask(local, method, **frame)[0] == 403


def test_a_link_from_another_site_may_be_followed_but_not_a_form(local: int) -> None:
    link = {
        "Sec_Fetch_Site": "cross-site",
        "Sec_Fetch_Mode": "navigate",
        "Sec_Fetch_Dest": "document",
    }
    assert ask(local, "GET", **link)[0] == 200
    assert ask(local, "POST", Origin="http://evil.example", **link)[0] == 403


def test_security_headers(local: int) -> None:
    _, _, headers = ask(local)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["script-src"] == "'self' 'sha256-abc'"
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"].split()[:2] == ["'self'", f"ws://127.0.0.1:{local}"]
    assert policy["frame-ancestors"] == "'none'"
    _, _, refused = ask(local, host="evil.example")
    assert refused["X-Content-Type-Options"] == "nosniff"


def test_websocket_of_the_page(local: int) -> None:
    with connect(
        f"ws://127.0.0.1:{local}/", origin=f"http://127.0.0.1:{local}", proxy=None
    ) as ours:
        ours.send("ping")
        assert ours.recv() == "ping"


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "http://localhost:1"])
def test_websockets_of_others(local: int, origin: str | None) -> None:
    with (
        pytest.raises(InvalidStatus) as caught,
        connect(f"ws://127.0.0.1:{local}/", origin=origin, proxy=None),
    ):
        pass
    assert caught.value.response.status_code == 403


def test_websocket_under_a_foreign_name(local: int) -> None:
    with socket.create_connection(("127.0.0.1", local)) as raw, pytest.raises(InvalidStatus):
        connect(f"ws://evil.example:{local}/", sock=raw, origin=f"http://evil.example:{local}")


# --- binding ---


def test_a_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            bind("127.0.0.1", port)
    assert caught.value.kind is ErrorKind.OPTION
    assert str(port) in str(caught.value)
    assert "--port" in str(caught.value)
    bind("127.0.0.1", port).close()  # free again at once


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("no.such.host.invalid", 0, "--host"),
        ("203.0.113.7", 0, "--host"),
        ("127.0.0.1", 70_000, "--port"),
        ("127.0.0.1", -1, "--port"),
        ("x" * 100, 0, "--host"),
    ],
)
def test_where_nothing_can_listen(host: str, port: int, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        bind(host, port)


def test_names_of_this_machine_only() -> None:
    assert all(
        is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")
    )
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", ""))


def test_links() -> None:
    assert links("127.0.0.1", 8050) == ["http://127.0.0.1:8050/"]
    assert links("::1", 1) == ["http://[::1]:1/"]
    assert links("0.0.0.0", 1) == ["http://127.0.0.1:1/", f"http://{socket.gethostname()}:1/"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_ends_the_server_cleanly_and_no_prompt_is_logged(name: str) -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, "tests/app")
        from test_server import small_app
        from app.server import bind, guarded, serve
        taken = bind("127.0.0.1", 0)
        print(taken.getsockname()[1], flush=True)
        serve(guarded(small_app, "127.0.0.1"), "127.0.0.1", 0, listening=taken)
        print("ended", flush=True)
        """
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert run.stdout is not None
    port = int(run.stdout.readline())
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", "/?prompt=secret", headers={"Host": "localhost"})
        with connection.getresponse() as response:
            assert response.read() == b"hello"
    run.send_signal(getattr(signal, name))
    out, err = run.communicate(timeout=30)
    assert json.dumps([out, err]).count("secret") == 0
    assert err == ""
    assert (out, run.returncode) == ("ended\n", 0)
