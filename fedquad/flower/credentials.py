"""Certificates and keys of a federation: a CA, the server's certificate, a key pair a node.

For trying things out, and for federations of one owner. Whoever has a certificate
authority uses that instead: Flower takes any PEM files, and `ssh-keygen -t ecdsa -b 384`
makes a node's keys.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedquad.config import InputError, require_int

VALID_DAYS = 365


@dataclass(frozen=True)
class Credentials:
    """Files of a federation's credentials.

    Attributes
    ----------
    folder : Path
        ``ca.crt``, ``server.pem``, ``server.key``, and ``node-1``, ``node-1.pub``, …
    num_nodes : int
    """

    folder: Path
    num_nodes: int

    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.folder / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"

    def node_key(self, number: int) -> Path:
        """Private key of a node, from 1; the public one has ``.pub`` behind it."""
        return self.folder / f"node-{number}"

    @property
    def paths(self) -> list[Path]:
        keys = [self.node_key(number) for number in range(1, self.num_nodes + 1)]
        public = [key.with_suffix(".pub") for key in keys]
        return [self.ca, self.server_certificate, self.server_key, *keys, *public]


def make_credentials(folder: str | Path, num_nodes: int, hosts: Sequence[str]) -> Credentials:
    """Make a CA (whose key is not kept), a server certificate and node keys.

    Parameters
    ----------
    folder : path
        Made if it is not there; private keys can be read by its owner alone.
    num_nodes : int
    hosts : sequence of str
        Names and addresses under which the server is reached.

    Raises
    ------
    InputError
        No host, fewer than one node, or credentials that are there already.
    """
    require_int("nodes", num_nodes, 1)
    if not hosts or not all(hosts):
        raise InputError("hosts", list(hosts), "names or addresses of the server, at least one")
    made = Credentials(Path(folder).expanduser(), num_nodes)
    if there := [path.name for path in made.paths if path.exists()]:
        raise InputError("folder", str(made.folder), f"one without {there[0]}: nothing is replaced")
    made.folder.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca_name = _name("fedquad federation")
    ca = _builder(ca_name, ca_name, ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    server = _builder(_name(hosts[0]), ca_name, server_key)
    server = server.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    server = server.add_extension(
        x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    server = server.add_extension(usage, critical=False)
    pem = serialization.Encoding.PEM
    made.ca.write_bytes(ca.sign(ca_key, hashes.SHA384()).public_bytes(pem))
    made.server_certificate.write_bytes(server.sign(ca_key, hashes.SHA384()).public_bytes(pem))
    _write_private(made.server_key, server_key, serialization.PrivateFormat.PKCS8)
    for number in range(1, num_nodes + 1):
        key = ec.generate_private_key(ec.SECP384R1())
        _write_private(made.node_key(number), key, serialization.PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        made.node_key(number).with_suffix(".pub").write_bytes(public + b"\n")
    return made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(
    path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat
) -> None:
    content = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
