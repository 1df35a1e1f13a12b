"""`valkey-cli` for machines without one: signs in as `--user` with REDISCLI_AUTH, sends a command, prints the answer.

As there, an answer that is an error is printed and is no failure of the command; a refused sign-in goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", type=int, default=6379)
    parser.add_argument("--user")
    parser.add_argument("words", nargs="+")
    given = parser.parse_args()
    try:
        server = socket.create_connection(("127.0.0.1", given.p), timeout=60)
    except OSError as error:
        sys.exit(f"Could not connect: {error}")
    with server, server.makefile("rwb") as stream:

        def ask(*words: str) -> str:
            stream.write(" ".join(words).encode() + b"\r\n")
            stream.flush()
            return stream.readline().decode().strip()

        password = os.environ.get("REDISCLI_AUTH")
        if password is not None:
            signed_in = ask("AUTH", *([given.user] if given.user else []), password)
            if not signed_in.startswith("+"):
                print(f"AUTH failed: {signed_in[1:]}", file=sys.stderr)  # noqa: T201
        print(ask(*given.words)[1:])  # noqa: T201


if __name__ == "__main__":
    main()
