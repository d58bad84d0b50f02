"""May these keys be used? With the standard library:

    python3 may_use.py SOCKET [KEY_ID...]      without key ids: one a line from standard input

Prints for each "yes", "no" and why, or "cannot tell" and why. Exit status: 0 all may be
used, 1 one may not, 2 one cannot be told.
"""

import http.client
import json
import socket
import sys
import urllib.parse


class CannotTell(Exception):
    """Says nothing about the key: fail the request that needed it."""


class Sidecar(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=2)  # for each wait on the socket
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path, key_id):
    """Returns whether the key may be used, and a code that says why not."""
    sidecar = Sidecar(path)
    try:
        sidecar.request("GET", "/v1/keys/" + urllib.parse.quote(key_id, safe="", errors="surrogateescape"))
        answer = sidecar.getresponse()
        verdict = json.loads(answer.read())
        valid, code, named = verdict.get("valid"), verdict.get("code"), verdict.get("key_id")
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as problem:
        raise CannotTell(repr(problem)) from problem
    finally:
        sidecar.close()
    if answer.status == 200 and valid is True and named == key_id:
        return True, code
    if answer.status in (403, 404, 410) and valid is False and named == key_id:
        return False, code
    if answer.status == 400 and code == "bad_key_id":
        return False, code
    raise CannotTell(f"status {answer.status}, code {code}")  # 503, an unknown route, another key


def main():
    worst = 0
    for key_id in sys.argv[2:] or (line.rstrip("\n") for line in sys.stdin):
        try:
            valid, code = ask(sys.argv[1], key_id)
            worst = max(worst, 0 if valid else 1)
            print("yes" if valid else f"no {code}", flush=True)
        except CannotTell as problem:
            worst = 2
            print("cannot tell:", problem, flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
