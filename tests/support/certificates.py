"""Certificates of the tests' own, made with openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it signed for a server."""

    authority: Path
    certificate: Path
    key: Path


def signed_for(directory: Path, *names: str) -> Certificates:
    """A server's certificate, signed by an authority that is made with it.

    Args:
        directory: for the files; is made.
        names: whom it is for, as openssl writes them: `DNS:localhost`, `IP:127.0.0.1`.
    """
    directory.mkdir()
    key, certificate, request = (directory / name for name in ("key.pem", "certificate.pem", "request.pem"))
    authority, its_key, extension = (directory / name for name in ("ca.pem", "ca-key.pem", "extension"))
    extension.write_text(f"subjectAltName={','.join(names)}\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for command in (
        ("req", "-x509", *new_key, "-days", "2", "-subj", "/CN=authority", "-keyout", its_key, "-out", authority),
        ("req", *new_key, "-subj", "/CN=server", "-keyout", key, "-out", request),
        ("x509", "-req", "-in", request, "-CA", authority, "-CAkey", its_key, "-CAcreateserial", "-days", "2",
         "-extfile", extension, "-out", certificate),
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return Certificates(authority, certificate, key)
