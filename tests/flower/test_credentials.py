"""Certificates that a TLS client accepts, for their hosts alone, and keys nobody else reads."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from contextlib import suppress

import needs_flower  # noqa: F401
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedquad.config import InputError
from fedquad.flower.credentials import Credentials, make_credentials


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Credentials:
    folder = tmp_path_factory.mktemp("federation") / "secrets"
    return make_credentials(folder, 2, ["127.0.0.1", "server.example"])


def shake_hands(made: Credentials, host: str) -> str | None:
    """TLS version that a client which trusts the CA agrees on with the server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.server_certificate, made.server_key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with suppress(ssl.SSLError), server.wrap_socket(connection, server_side=True):
                pass  # the client is who is asked

        thread = threading.Thread(target=answer)
        thread.start()
        client = ssl.create_default_context(cafile=made.ca)
        try:
            with (
                socket.create_connection(listening.getsockname()) as connection,
                client.wrap_socket(connection, server_hostname=host) as secure,
            ):
                return secure.version()
        finally:
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "server.example"])
def test_a_client_trusts_the_server_at_its_hosts(made, host):
    assert shake_hands(made, host) == "TLSv1.3"


def test_and_at_no_other(made):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, "elsewhere.example")


def test_nodes_have_key_pairs_of_their_own(made):
    pairs = []
    for number in (1, 2):
        private = load_ssh_private_key(made.node_key(number).read_bytes(), None)
        public = load_ssh_public_key(made.node_key(number).with_suffix(".pub").read_bytes())
        assert private.public_key() == public
        pairs.append(public)
    assert pairs[0] != pairs[1]


def test_private_keys_are_their_owners(made):
    for path in (made.server_key, made.node_key(1), made.node_key(2)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_replaced(made):
    before = made.node_key(1).read_bytes()
    with pytest.raises(InputError, match="nothing is replaced"):
        make_credentials(made.folder, 2, ["127.0.0.1"])
    assert made.node_key(1).read_bytes() == before


@pytest.mark.parametrize(("nodes", "hosts"), [(0, ["a"]), (1, []), (1, [""])])
def test_credentials_that_cannot_be(tmp_path, nodes, hosts):
    with pytest.raises(InputError):
        make_credentials(tmp_path, nodes, hosts)
