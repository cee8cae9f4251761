"""Registries that lie, stall, count wrongly, or lead elsewhere: refused with a reason, and nothing is left behind."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.errors import Interrupted, ReleaseError
from edgebuild.releasing.layout import INDEX_TYPE, Descriptor, Layout, descriptor_of, oci_bytes
from edgebuild.releasing.pull import pull
from edgebuild.releasing.push import push
from edgebuild.releasing.registries.credentials import Credentials
from edgebuild.releasing.registries.http import Unavailable
from edgebuild.releasing.registries.oci import MAX_TAGS
from edgebuild.releasing.registry import listed, read_small
from tests.releasing.registries.bundles import make_bundle, sbom, tree
from tests.releasing.registries.servers import Asked, client, liar, reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    Answer = Callable[[BaseHTTPRequestHandler, Asked], None]

SIZE = 3 << 20
MODEL = bytes(range(256)) * (SIZE // 256)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "made", {"pi": {"artifact/model.bin": MODEL, "sbom.cdx.json": sbom(onnxruntime="1.32.0")}})
    return tmp_path / "made"


def honest(made: Path) -> Answer:
    """Return what serves a bundle as a registry without the referrers API does."""
    release = Layout(made).index.manifests[0]

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        name = asked.path.rpartition("/")[2].removeprefix("sha256:")
        name = release.sha256 if name in ("1.4.0", "prod") else name
        path = made / "blobs" / "sha256" / name
        if asked.path.startswith("/v2/doors/tags/list"):
            return reply(handler, 200, json.dumps({"tags": ["1.4.0", "prod"]}).encode())
        if "/referrers/" in asked.path or not path.is_file():
            return reply(handler, 404)
        data = path.read_bytes()
        if begin := asked.headers.get("Range", ""):
            first = int(begin.removeprefix("bytes=").partition("-")[0])
            return reply(handler, 206, data[first:], Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
        return reply(handler, 200, data)

    return answer


def instead(made: Path, part: str, lie: Answer) -> Answer:
    """Return what is honest, except where a path holds ``part``."""

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        (lie if part in asked.path else honest(made))(handler, asked)

    return answer


def model(made: Path) -> Descriptor:
    layout = Layout(made)
    target = layout.nested(layout.index.manifests[0]).manifests[0]
    return next(each for each in layout.manifest(target).layers if each.size == SIZE)


def weights(made: Path) -> str:
    return f"/blobs/{model(made).digest}"


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Return what answers everything alike."""

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, status, body, **headers)

    return answer


def endless(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def other_bytes(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 200, bytes(SIZE))


def too_much_announced(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 200, MODEL + b"!")


def never_whole(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(SIZE))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(MODEL[:1000])
    handler.close_connection = True


def wrong_part(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    if "Range" not in asked.headers:
        return never_whole(handler, asked)
    return reply(handler, 206, MODEL[5:], Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}")


def in_circles(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 307, Location=asked.path)


def to_other_machine(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 307, Location="http://192.0.2.1/elsewhere")


def to_tricky_machine(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 307, Location="http://127.0.0.1@192.0.2.1:80/elsewhere")


def to_a_file(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 307, Location="file:///etc/passwd")


def to_no_address(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    reply(handler, 307, Location="http://[::1")


def broken(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    words = {"errors": [{"code": "UNKNOWN", "message": "\x1b[31mred\nlines"}]}
    reply(handler, 500, json.dumps(words).encode())


def not_http(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 1000)
    handler.close_connection = True


def many_headers(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
    handler.send_response(200)
    for at in range(5000):
        handler.send_header(f"X-{at}", "x" * 100)
    handler.end_headers()


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (endless, "sends more of"),
        (other_bytes, "came with another content"),
        (too_much_announced, "sends more of"),
        (never_whole, "broke off"),
        (wrong_part, "sends another part"),
        (in_circles, "round in circles"),
        (to_other_machine, "leads to http://192.0.2.1"),
        (to_tricky_machine, "leads to http://192.0.2.1"),
        (to_a_file, "leads to file"),
        (to_no_address, "no address"),
        (broken, "answered with 500: UNKNOWN  \\[31mred lines"),
        (not_http, "broke off"),
        (many_headers, "broke off"),
    ],
)
def test_a_blob_that_isnt_what_it_should_be_is_refused(made: Path, tmp_path: Path, lie: Answer, words: str) -> None:
    with liar(instead(made, weights(made), lie)) as server:
        with pytest.raises((ReleaseError, Unavailable), match=words) as caught:
            pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
        assert caught.value.hint
    assert not (tmp_path / "pulled").exists()
    left = sum(len(data) for name, data in tree(tmp_path / ".pulled.part").items() if name.startswith("partial"))
    assert left <= SIZE


def test_after_a_lie_an_honest_registry_serves(made: Path, tmp_path: Path) -> None:
    with liar(instead(made, weights(made), other_bytes)) as server, pytest.raises(ReleaseError):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    with liar(honest(made)) as server:
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    assert tree(tmp_path / "pulled")["oci-layout"] == tree(made)["oci-layout"]
    assert Layout(tmp_path / "pulled").read(model(made), limit=SIZE) == MODEL


def test_a_server_without_ranges_still_serves_after_a_break(made: Path, tmp_path: Path) -> None:
    tries: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        tries.append(asked.headers.get("Range", ""))
        never_whole(handler, asked) if len(tries) == 1 else reply(handler, 200, MODEL)

    with liar(instead(made, weights(made), answer)) as server:
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    assert tries[0] == ""
    assert Layout(tmp_path / "pulled").read(model(made), limit=SIZE) == MODEL


def test_manifests_are_bounded_and_held_to_their_digest(made: Path, tmp_path: Path) -> None:
    for lie, words in (
        (endless, "without end"),
        (other_bytes, "is no part of a release"),
        (says(200, b"[" * 100_000), "is no part of a release"),
        (says(200, b'{"schemaVersion":2}'), "is no part of a release"),
        (says(401), "asks for credentials"),
    ):
        with liar(instead(made, "/manifests/prod", lie)) as server, pytest.raises(ReleaseError, match=words):
            pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    release = Layout(made).index.manifests[0]
    with (
        liar(instead(made, release.digest, other_bytes)) as server,
        pytest.raises(ReleaseError, match="sends something"),
    ):
        pull(f"{server.host}/doors@{release.digest}", tmp_path / "pulled", registry=client(server.host))
    assert not (tmp_path / "pulled").exists()


def test_more_than_the_disk_has_is_refused_before_it_comes(made: Path, tmp_path: Path) -> None:
    layout = Layout(made)
    index = layout.nested(layout.index.manifests[0])
    manifest = layout.manifest(index.manifests[0])
    huge = tuple(
        Descriptor(mediaType="x", digest=f"sha256:{at:064x}", size=60 << 30, annotations={}) for at in range(2000)
    )
    target = oci_bytes(manifest.model_copy(update={"layers": huge}))
    listed_as = descriptor_of(target, index.manifests[0].mediaType)
    lied = oci_bytes(index.model_copy(update={"manifests": (listed_as,)}))

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 200, lied if "prod" in asked.path else target) if "sha256-" not in asked.path else reply(
            handler, 404
        )

    with (
        liar(instead(made, "/manifests/", answer)) as server,
        pytest.raises(ReleaseError, match=r"has room for .* and 128,8"),
    ):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    assert not [each for each in server.asked if "/blobs/" in each.path]


def test_credentials_stay_with_the_registry(made: Path, tmp_path: Path) -> None:
    def elsewhere(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 200, MODEL)

    def asks(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if "Authorization" not in asked.headers:
            return reply(handler, 401, WWW_Authenticate='Basic realm="here"')
        if weights(made) in asked.path:
            return reply(handler, 307, Location=f"http://{storage.host}/signed?token=abc")
        return honest(made)(handler, asked)

    with liar(elsewhere) as storage, liar(asks) as server:
        registry = client(server.host, credentials=Credentials("ann", "s3cret-word"))
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=registry)
    assert [each.path for each in storage.asked] == ["/signed?token=abc"]
    assert "Authorization" not in storage.asked[0].headers
    assert "s3cret-word" not in repr(Credentials("ann", "s3cret-word"))


def test_a_token_is_fetched_where_the_registry_says_and_anew_when_it_is_over(made: Path, tmp_path: Path) -> None:
    tokens: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if asked.path.startswith("/token"):
            assert asked.path == "/token?service=here&scope=repository%3Adoors%3Apull"
            assert asked.headers["Authorization"] == Credentials("ann", "s3cret-word").basic()
            tokens.append(f"t{len(tokens)}")
            return reply(handler, 200, json.dumps({"token": tokens[-1]}).encode())
        old = weights(made) in asked.path and len(tokens) < 2
        if not tokens or old or asked.headers.get("Authorization") != f"Bearer {tokens[-1]}":
            realm = f'Bearer realm="http://{server.host}/token",service="here",scope="repository:doors:pull"'
            return reply(handler, 401, WWW_Authenticate=realm)
        return honest(made)(handler, asked)

    with liar(answer) as server:
        registry = client(server.host, credentials=Credentials("ann", "s3cret-word"))
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=registry)
    assert len(tokens) == 2


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "file:///etc/passwd", "http://127.0.0.1@192.0.2.1/", "http://[::1"]
)
def test_a_password_goes_to_no_place_in_the_clear(tmp_path: Path, realm: str) -> None:
    with (
        liar(says(401, WWW_Authenticate=f'Bearer realm="{realm}"')) as server,
        pytest.raises(ReleaseError, match=r"isn't followed|no address"),
    ):
        pull(
            f"{server.host}/doors:prod",
            tmp_path / "pulled",
            registry=client(server.host, credentials=Credentials("ann", "s3cret-word")),
        )


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b'{"token": 5}', b'{"token": "a\\r\\nX: y"}', b"{}"])
def test_a_token_that_is_none_is_no_login(tmp_path: Path, answer: bytes) -> None:
    def lies(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if asked.path.startswith("/token"):
            return reply(handler, 200, answer)
        return reply(handler, 401, WWW_Authenticate='Bearer realm="/token"')

    with liar(lies) as server, pytest.raises(ReleaseError, match="asks for credentials"):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))


def test_a_busy_registry_is_asked_again_when_it_says(made: Path, tmp_path: Path) -> None:
    waits: list[float] = []
    asked_to_wait = ["7", "0", "Wed, 21 Oct 2026 07:28:00 GMT"]

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if asked_to_wait:
            return reply(handler, 429, Retry_After=asked_to_wait.pop(0))
        return honest(made)(handler, asked)

    with liar(answer) as server:
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host, sleep=waits.append))
    assert waits == [7.0, 0.0, 2.0]


@pytest.mark.parametrize("asked", ["9" * 400, "9" * 5000, "-5", "soon"])
def test_a_wait_that_makes_no_sense_is_harmless(tmp_path: Path, asked: str) -> None:
    with (
        liar(says(429, Retry_After=asked)) as server,
        pytest.raises((ReleaseError, Unavailable), match=r"come back in 1,000,000,000 s|answered with 429"),
    ):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))


def test_a_proxy_is_used_for_other_machines_only(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with liar(honest(made)) as proxy, liar(honest(made)) as server:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        pull(f"{server.host}/doors:prod", tmp_path / "direct", registry=client(server.host))
        assert not proxy.asked
        far = "registry.example:5000"
        pull(f"{far}/doors:prod", tmp_path / "proxied", registry=client(far, plain=True))
    assert proxy.asked[0].path == f"http://{far}/v2/doors/manifests/prod"


def test_a_registry_elsewhere_doesnt_reach_into_this_machine(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 307, Location="http://localhost:631/")

    with liar(instead(made, weights(made), answer)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        far = "registry.example:5000"
        with pytest.raises(ReleaseError, match="isn't followed"):
            pull(f"{far}/doors:prod", tmp_path / "pulled", registry=client(far, plain=True))


def test_a_registry_that_is_busy_for_long_or_for_ever_is_left(tmp_path: Path) -> None:
    with (
        liar(says(429, Retry_After="86400")) as server,
        pytest.raises(ReleaseError, match="come back in 86,400 s"),
    ):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    with (
        liar(says(503)) as server,
        pytest.raises(Unavailable, match="answered with 503"),
    ):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    assert len(server.asked) == 5
    with pytest.raises(Unavailable, match="connection was refused"):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))


def test_a_wait_ends_with_the_user(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted("Stopped.")

    with liar(says(503)) as server, pytest.raises(Interrupted):
        pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host, check=stop))


def test_lists_are_bounded(made: Path) -> None:
    def tags(*names: Any, link: str = "") -> Answer:
        headers = {"Link": f'<{link}>; rel="next"'} if link else {}
        return says(200, json.dumps({"tags": names}).encode(), **headers)

    for lie, words in (
        (tags(*(f"t{at}" for at in range(MAX_TAGS + 1))), "more than 10,000 tags"),
        (tags("a", link="/v2/doors/tags/list?last=a"), "without end"),
        (tags("../../x"), "can't be tags"),
        (tags(5), "can't be tags"),
        (tags("a", link="http://192.0.2.1/x"), "isn't followed"),
        (says(200, b"{"), "no JSON"),
    ):
        with liar(instead(made, "/tags/list", lie)) as server, pytest.raises(ReleaseError, match=words):
            listed(f"{server.host}/doors", registry=client(server.host))


def test_what_else_is_tagged_isnt_listed(made: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 200, b'{"schemaVersion": 2, "config": {}}')

    with liar(instead(made, "/manifests/prod", answer)) as server:
        (found,) = listed(f"{server.host}/doors", registry=client(server.host))
    assert (found.tags, found.targets, found.signatures) == (("1.4.0",), ("pi",), 0)


def test_referrers_of_other_tools_are_left_out_and_lost_ones_are_said(made: Path, tmp_path: Path) -> None:
    layout = Layout(made)
    release, *signatures = layout.index.manifests
    foreign = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
    other = descriptor_of(foreign, signatures[0].mediaType, artifactType=signatures[0].artifactType)
    entries: list[Any] = [each.model_dump(exclude_none=True) for each in (*signatures, other)]
    no_signature = {**entries[0], "digest": f"sha256:{0:064x}", "artifactType": "text/plain"}
    entries += [{"digest": "sha256:xyz"}, 7, {**entries[0], "size": -1}, no_signature]
    lost: list[str] = []

    def referrers(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 200, json.dumps({"manifests": entries if release.digest in asked.path else []}).encode())

    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if "/referrers/" in asked.path:
            return referrers(handler, asked)
        if asked.path.endswith(other.digest):
            return reply(handler, 200, foreign)
        if any(each in asked.path for each in lost):
            return reply(handler, 404)
        return honest(made)(handler, asked)

    with liar(answer) as server:
        pulled = pull(f"{server.host}/doors:prod", tmp_path / "pulled", registry=client(server.host))
    of_release = [each for each in signatures if (layout.manifest(each).subject or each).digest == release.digest]
    assert (pulled.signatures, pulled.left_out) == (len(of_release), 2)
    lost.append(signatures[0].digest)
    with liar(answer) as server, pytest.raises(ReleaseError, match="is missing"):
        pull(f"{server.host}/doors:prod", tmp_path / "again", registry=client(server.host))


def test_a_registry_with_the_referrers_api_gets_no_fallback_tags(made: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if asked.method == "POST":
            return reply(handler, 202, Location="/upload?state=1")
        if asked.method == "PUT":
            subject = json.loads(asked.body).get("subject") if "/manifests/" in asked.path else None
            return reply(handler, 201, **({"OCI_Subject": subject["digest"]} if subject else {}))
        return reply(handler, 404)

    with liar(answer) as server:
        push(made, f"{server.host}/doors", registry=client(server.host))
    puts = [each for each in server.asked if each.method == "PUT"]
    assert not [each.path for each in puts if "sha256-" in each.path]
    uploads = [each.path for each in puts if "/manifests/" not in each.path]
    assert all(path.startswith("/upload?state=1&digest=sha256:") for path in uploads)
    assert MODEL in [each.body for each in puts]
    assert puts[-1].path == "/v2/doors/manifests/1.4.0"
    assert puts[-1].headers["Content-Type"] == INDEX_TYPE


@pytest.mark.parametrize(
    ("place", "words"), [({"Location": "http://192.0.2.1/upload"}, "isn't followed"), ({}, "doesn't say where")]
)
def test_a_push_goes_nowhere_in_the_clear(made: Path, place: dict[str, str], words: str) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 202 if asked.method == "POST" else 404, b"", **place)

    with liar(answer) as server, pytest.raises(ReleaseError, match=words):
        push(made, f"{server.host}/doors", registry=client(server.host))


def test_a_small_blob_is_bounded_and_checked(made: Path) -> None:
    with liar(instead(made, weights(made), other_bytes)) as server:
        with pytest.raises(ReleaseError, match="are read at most"):
            read_small(client(server.host), model(made), 1000)
        with pytest.raises(ReleaseError, match="another content"):
            read_small(client(server.host), model(made), SIZE)


def test_an_older_bundle_and_a_staging_folder_may_be_hostile(made: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(MODEL)
    name = model(made).sha256
    older = tmp_path / "older" / "blobs" / "sha256"
    older.mkdir(parents=True)
    (older / name).symlink_to(secret)
    partial = tmp_path / ".pulled.part" / "partial"
    partial.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (partial / name).symlink_to(victim)
    with liar(honest(made)) as server:
        name_there, registry = f"{server.host}/doors:prod", client(server.host)
        with pytest.raises(ReleaseError, match="can't be used"):
            pull(name_there, tmp_path / "pulled", registry=registry, older=tmp_path / "older")
        (partial / name).unlink()
        pulled = pull(name_there, tmp_path / "pulled", registry=registry, older=tmp_path / "older")
    assert victim.read_text() == "kept"
    assert pulled.fetched_bytes >= SIZE
    assert not (tmp_path / "pulled" / "blobs" / "sha256" / name).is_symlink()


def certificate(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_tls_is_verified(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with liar(honest(made), certificate(tmp_path)) as server:
        host = server.host.replace("127.0.0.1", "localhost")
        with pytest.raises(Unavailable, match="isn't trusted"):
            pull(f"{host}/doors:prod", tmp_path / "pulled", registry=client(host, plain=False))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        pull(f"{host}/doors:prod", tmp_path / "pulled", registry=client(host, plain=False))
        with pytest.raises(Unavailable, match="isn't trusted"):
            pull(f"{server.host}/doors:prod", tmp_path / "other", registry=client(server.host, plain=False))


def test_https_doesnt_lead_to_http(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        reply(handler, 307, Location=f"http://{server.host}{asked.path}")

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with liar(answer, certificate(tmp_path)) as server:
        host = server.host.replace("127.0.0.1", "localhost")
        with pytest.raises(ReleaseError, match="isn't followed"):
            pull(f"{host}/doors:prod", tmp_path / "pulled", registry=client(host, plain=False))
