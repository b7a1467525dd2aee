"""If these fail, a site tells a stranger secrets, is led astray, or costs more than it must."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import NetworkError
from pipeline.serve import serve
from pipeline.store.http import HttpStore, Limits
from pipeline.store.http_errors import Patience
from pipeline.store.local import LocalStore
from pipeline.store.paced import Pace
from tests.contract.store_suite import MEBIBYTE, noise, put
from tests.fakes.bad_server import BadServer, Wire, drip, head, say

KEY = "objects/ab/x"
LIMITS = Limits(pace=Pace(rate=1000.0, window=0.5), patience=Patience(3, 0.01, 2.0))


def get(server: BadServer) -> bytes:
    with HttpStore(server.url, LIMITS) as store:
        return store.get(KEY, limit=1000)


def test_a_redirect_is_followed_with_what_was_asked() -> None:
    rest = head("206 Partial Content", Content_Range="bytes 2-4/5", Content_Length=3)
    with BadServer(say(rest, b"llo")) as target:
        moved = say(head("302 Found", Location=f"{target.url}/elsewhere?sign=1"))
        with BadServer(moved) as server, HttpStore(server.url) as store:
            assert b"".join(store.stream(KEY, start=2)) == b"llo"
        assert target.requests[0].startswith("GET /elsewhere?sign=1 ")
        assert target.header(0, "Range") == "bytes=2-"


@pytest.mark.parametrize(
    "location", ["/again", "file:///etc/passwd", "http://user:word@127.0.0.1/", "http://"]
)
def test_a_redirect_that_leads_astray_is_refused(location: str) -> None:
    with BadServer(say(head("301 Moved", Location=location))) as server:
        with pytest.raises(NetworkError, match="redirect"):
            get(server)
        assert len(server.requests) <= 6


def test_no_credential_and_no_cookie_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password no\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    cookie = head(Content_Length=2, Set_Cookie="session=1; Path=/")
    moved = say(head("302 Found", Location="/there", Set_Cookie="moved=1"))
    with BadServer(moved, say(cookie, b"ok")) as server, HttpStore(server.url) as store:
        for _ in range(2):
            assert store.get(KEY, limit=10) == b"ok"
        assert len(server.requests) == 3
        for number in range(3):
            assert not server.header(number, "Authorization")
            assert not server.header(number, "Cookie")


def test_a_proxy_of_the_environment_is_used_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with BadServer(say(head(Content_Length=2), b"ok")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with HttpStore("http://store.example", LIMITS) as store:
            assert store.get(KEY, limit=10) == b"ok"
        assert proxy.requests[0].startswith(f"GET http://store.example/{KEY} HTTP/1.1")
    with BadServer(drip(head(Content_Length=1000), b"x", 0.02)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with (
            HttpStore("http://store.example", LIMITS) as store,
            pytest.raises(NetworkError, match="too slow"),
        ):
            store.get(KEY, limit=1000)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS on 127.0.0.1, and the certificate to trust."""
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store.example")])
    names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    moment = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    trusted, both = tmp_path / "certificate.pem", tmp_path / "both.pem"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    both.write_bytes(
        trusted.read_bytes()
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context, trusted


def test_tls_is_checked_and_not_left(
    tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = tls
    with BadServer(say(head(Content_Length=2), b"ok"), tls=context) as server:
        with pytest.raises(NetworkError, match="not secure") as caught:
            get(server)
        assert "certificate" in caught.value.hint
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
        assert get(server) == b"ok"
    with (
        BadServer(say(head(Content_Length=2), b"ok")) as plain,
        BadServer(say(head("302 Found", Location=plain.url)), tls=context) as server,
    ):
        with pytest.raises(NetworkError, match="without encryption"):
            get(server)
        assert plain.requests == []
    with (
        BadServer(drip(head(Content_Length=1000), b"x", 0.02), tls=context) as server,
        pytest.raises(NetworkError, match="too slow"),
    ):
        get(server)


def test_an_idle_check_costs_less_than_one_kib(tmp_path: Path) -> None:
    local = LocalStore(tmp_path)
    local.replace("metadata/timestamp.json", bytes(900), etag="")
    with serve(tmp_path) as server, Wire(server.url) as wire, HttpStore(wire.url) as store:
        first = store.get_changed("metadata/timestamp.json", "", limit=5000)
        assert first is not None
        before = wire.total
        assert store.get_changed("metadata/timestamp.json", first[1], limit=5000) is None
        assert 100 < wire.total - before < 512
    with serve(tmp_path) as server, Wire(server.url) as wire, HttpStore(wire.url) as store:
        assert store.get_changed("metadata/timestamp.json", first[1], limit=5000) is None
        assert 100 < wire.total < 512, "the first one on a connection"


def test_connections_are_kept(tmp_path: Path) -> None:
    local = LocalStore(tmp_path)
    data = noise(MEBIBYTE)
    put(local, KEY, data)
    with serve(tmp_path) as server, Wire(server.url) as wire, HttpStore(wire.url) as store:
        for _ in range(3):
            assert store.find(KEY) is not None
            assert store.find("objects/ab/none") is None
            assert b"".join(store.stream(KEY)) == data
        assert wire.connections == 1
