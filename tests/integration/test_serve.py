"""If these fail, `recast serve` gives away what is not its to give, or stops serving."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import HostError, UsageError
from pipeline.serve import Request, Server, serve
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
from tests.contract.store_suite import noise, put, race

DATA = noise(1000)
ENDED = b""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    store = LocalStore(folder)
    put(store, "objects/ab/x", DATA)
    put(store, "a%2Fb", b"odd")
    store.replace("metadata/timestamp.json", b"{}", etag="")
    (tmp_path / "secret").write_text("secret")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serve(folder, timeout=20) as server:
        yield server


def connect(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 60)


def talk(server: Server, words: str) -> bytes:
    """Everything that is answered to *words*, until the server closes."""
    with connect(server) as connection:
        connection.sendall(words.encode())
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while some := connection.recv(65536):
            answer += some
    return answer


def ask(server: Server, path: str, *headers: str, method: str = "GET") -> tuple[int, str, bytes]:
    """Status, headers and body of one answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    begin, _, body = talk(server, "\r\n".join(lines)).partition(b"\r\n\r\n")
    status, _, rest = begin.decode().partition("\r\n")
    return int(status.split()[1]), rest, body


def header(headers: str, name: str) -> str:
    match = re.search(rf"(?m)^{name}: (.*?)\r?$", headers)
    return match[1] if match else ""


def test_an_object_and_what_caches_need(server: Server) -> None:
    status, headers, body = ask(server, "/objects/ab/x")
    assert (status, body) == (200, DATA)
    assert header(headers, "Content-Length") == "1000"
    assert header(headers, "Content-Type") == "application/octet-stream"
    assert header(headers, "Cache-Control") == "max-age=31536000, immutable"
    assert header(headers, "ETag").startswith('"')
    assert header(headers, "Last-Modified").endswith("GMT")
    status, headers, _ = ask(server, "/metadata/timestamp.json?x=y")
    assert status == 200
    assert header(headers, "Cache-Control") == "no-cache"
    assert header(headers, "Content-Type") == "application/json"


def test_a_head_has_everything_but_the_body(server: Server) -> None:
    _, whole, _ = ask(server, "/objects/ab/x")
    status, headers, body = ask(server, "/objects/ab/x", method="HEAD")
    assert (status, body) == (200, b"")
    strip = re.compile("Date: .*")
    assert strip.sub("", headers) == strip.sub("", whole)
    assert ask(server, "/nothing", method="HEAD")[::2] == (404, b"")


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-", 206, 0, 1000),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=999-", 206, 999, 1000),
        ("bytes=10-5000", 206, 10, 1000),
        ("bytes=-10", 206, 990, 1000),
        ("bytes=-5000", 206, 0, 1000),
        ("bytes=20-10", 200, 0, 1000),
        ("bytes=0-1,5-6", 200, 0, 1000),
        ("bytes=x-", 200, 0, 1000),
        ("lines=1-2", 200, 0, 1000),
        ("bytes=-", 200, 0, 1000),
        ("bytes=" + "9" * 5000 + "-", 200, 0, 1000),
    ],
)
def test_a_range(server: Server, asked: str, status: int, start: int, end: int) -> None:
    found, headers, body = ask(server, "/objects/ab/x", f"Range: {asked}")
    assert (found, body) == (status, DATA[start:end])
    assert header(headers, "Content-Length") == str(end - start)
    said = header(headers, "Content-Range")
    assert said == (f"bytes {start}-{end - 1}/1000" if status == 206 else "")


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_behind_the_end(server: Server, asked: str) -> None:
    status, headers, _ = ask(server, "/objects/ab/x", f"Range: {asked}")
    assert status == 416
    assert header(headers, "Content-Range") == "bytes */1000"


def test_conditions(server: Server) -> None:
    etag = header(ask(server, "/objects/ab/x")[1], "ETag")
    for words in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        status, headers, body = ask(server, "/objects/ab/x", f"If-None-Match: {words}")
        assert (status, body) == (304, b"")
        assert header(headers, "ETag") == etag
    assert ask(server, "/objects/ab/x", 'If-None-Match: "other"')[0] == 200
    assert ask(server, "/objects/ab/x", "Range: bytes=5-", f"If-Range: {etag}")[0] == 206
    for words in ('"other"', f"W/{etag}", "Mon, 02 Mar 2026 10:00:00 GMT"):
        assert ask(server, "/objects/ab/x", "Range: bytes=5-", f"If-Range: {words}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/objects",
        "/objects/",
        "/objects/ab/y",
        "/../secret",
        "/objects/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/objects/%2e%2e/%2e%2e/secret",
        "/%2Fetc/passwd",
        "//etc/passwd",
        "/link",
        "/linked/ab/x",
        "/.hidden",
        "/.lock",
        "/.tmp/",
        "/%2elock",
        "/pipe",
        "/objects/ab/x%00",
        "/objects/ab/x/",
        "/%ff",
        "/%",
        "http://x/../secret",
    ],
)
def test_nothing_else_is_served(server: Server, folder: Path, path: str) -> None:
    import os

    (folder / "link").symlink_to("../secret")
    (folder / "linked").symlink_to("objects")
    (folder / ".hidden").write_text("secret")
    os.mkfifo(folder / "pipe")
    status, headers, body = ask(server, path)
    assert (status, body) == (404, b"404 Not Found\n")
    assert header(headers, "Cache-Control") == "no-cache"


def test_odd_ways_to_name_an_object(server: Server) -> None:
    for path in ("http://elsewhere/objects/ab/x", "/objects/%61b/x", "/objects%2Fab/x"):
        assert ask(server, path)[::2] == (200, DATA)
    assert ask(server, "/a%252Fb")[::2] == (200, b"odd")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_can_be_done_but_reading(server: Server, method: str) -> None:
    status, headers, _ = ask(server, "/objects/ab/x", "Content-Length: 5", method=method)
    assert status == 405
    assert header(headers, "Allow") == "GET, HEAD"


@pytest.mark.parametrize(
    "words", ["\r\n\r\n", "x\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/9\r\n\r\n"]
)
def test_garbage_is_answered_or_left_and_the_server_lives(server: Server, words: str) -> None:
    with connect(server) as connection:
        connection.sendall(f"{words}\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        assert b"200 OK" not in everything(connection)
    assert ask(server, "/objects/ab/x")[0] == 200


def test_one_connection_serves_many_requests(server: Server) -> None:
    request = "GET /objects/ab/x HTTP/1.1\r\nHost: x\r\n{}\r\n"
    words = request.format("") + request.format("Range: bytes=990-\r\n")
    words += "GET /none HTTP/1.1\r\nHost: x\r\n\r\n" + request.format("Connection: close\r\n")
    answer = talk(server, words)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"206", b"404", b"200"]
    assert answer.count(DATA) == 2


def test_a_request_that_never_ends_loses_its_connection(folder: Path) -> None:
    with serve(folder, timeout=0.3) as server:
        assert talk(server, "GET /objects/ab/x HTTP/1.1\r\nX: ") == ENDED
        assert talk(server, "") == ENDED
        assert talk(server, "GET / HTTP/1.1\r\nX: " + "y" * 20_000) == ENDED
        assert ask(server, "/objects/ab/x")[0] == 200


def test_no_more_connections_than_there_is_room_for(folder: Path) -> None:
    with serve(folder, connections=4, timeout=60) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(4)]
        # A connection counts from the moment that it is accepted.
        answers = iter(lambda: talk(server, "GET / HTTP/1.1\r\n\r\n"), None)
        refused = next(answer for answer in answers if b"404" not in answer)
        assert b"503" in refused or refused == ENDED
        held[0].close()
        with HttpStore(server.url) as reader:  # which is patient
            assert reader.get("objects/ab/x", limit=5000) == DATA


def test_when_many_come_nobody_stays(folder: Path) -> None:
    with serve(folder, connections=4) as server, contextlib.ExitStack() as stack:
        request = b"GET /objects/ab/x HTTP/1.1\r\nHost: x\r\n\r\n"
        stays: list[bool] = []
        for _ in range(3):
            connection = stack.enter_context(connect(server))
            connection.sendall(request)
            answer = b""
            while len(answer.partition(b"\r\n\r\n")[2]) < len(DATA):
                answer += connection.recv(65536)
            stays.append(b"Connection: close" not in answer)
        assert stays == [True, True, False]


def test_many_read_at_once(server: Server) -> None:
    def read(_: int) -> bool:
        with HttpStore(server.url) as reader:
            return all(reader.get("objects/ab/x", limit=5000) == DATA for _ in range(20))

    assert race(8, read) == [True] * 8


def test_a_client_that_goes_away_is_nobodys_trouble(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    put(LocalStore(folder), "large", bytes(32 << 20))
    with serve(folder) as server:
        for _ in range(3):
            with connect(server) as connection:
                connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
                connection.recv(10)
        assert ask(server, "/objects/ab/x")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_the_end_does_not_wait_for_idle_or_slow_clients(folder: Path) -> None:
    put(LocalStore(folder), "large", bytes(64 << 20))
    with contextlib.ExitStack() as stack:
        with serve(folder, timeout=600) as server:
            idle = stack.enter_context(connect(server))
            slow = stack.enter_context(connect(server))
            slow.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            slow.recv(10)
        assert everything(idle) == ENDED


def test_a_log_hears_of_each_request(folder: Path) -> None:
    heard: list[Request] = []
    with serve(folder, log=heard.append) as server:
        ask(server, "/objects/ab/x", "Range: bytes=10-")
        ask(server, "/a\x1b[31mred")
    assert heard[0] == Request("127.0.0.1", "GET /objects/ab/x", 206, 990)
    assert heard[1].line == "GET /a?[31mred"


def test_where_it_listens(folder: Path) -> None:
    with serve(folder) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(HostError, match="in use") as caught:
            serve(folder, port=port)
        assert "--port" in caught.value.hint
    with serve(folder, port=port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
    with pytest.raises(UsageError, match="no-such-host"):
        serve(folder, "no-such-host.invalid")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    import os

    (tmp_path / "images").mkdir()
    env = {**os.environ, "RECAST_PROJECT": str(tmp_path), "RECAST_STORE": str(folder)}
    env.pop("RECAST_ARTIFACTS", None)
    argv = [sys.executable, "-m", "pipeline.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert str(folder) in first
            url = first.split()[-1]
            with HttpStore(url) as reader:
                assert reader.get("objects/ab/x", limit=5000) == DATA
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "127.0.0.1 GET /objects/ab/x 200 1000\n" in out
    assert err == f"Stopped by {number.name}.\n"
