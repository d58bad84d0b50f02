"""May these keys be used? With httpx:  python3 may_use_httpx.py SOCKET [KEY_ID...]

As may_use.py; httpx.AsyncClient takes an AsyncHTTPTransport in the same way.
"""

import sys
import urllib.parse

import httpx


class CannotTell(Exception):
    """Says nothing about the key: fail the request that needed it."""


def connect(path):
    """Returns a client that reuses its connections. The timeout is for each wait on the socket."""
    return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://localhost", timeout=2, follow_redirects=False)


def ask(sidecar, key_id):
    """Returns whether the key may be used, and a code that says why not."""
    if key_id in (".", ".."):  # httpx would resolve them and ask for another path
        return False, "bad_key_id"
    try:
        answer = sidecar.get("/v1/keys/" + urllib.parse.quote(key_id, safe="", errors="surrogateescape"))
        verdict = answer.json()
        valid, code, named = verdict.get("valid"), verdict.get("code"), verdict.get("key_id")
    except (httpx.HTTPError, ValueError, AttributeError) as problem:
        raise CannotTell(repr(problem)) from problem
    if answer.status_code == 200 and valid is True and named == key_id:
        return True, code
    if answer.status_code in (403, 404, 410) and valid is False and named == key_id:
        return False, code
    if answer.status_code == 400 and code == "bad_key_id":
        return False, code
    raise CannotTell(f"status {answer.status_code}, code {code}")  # 503, an unknown route, another key


def main():
    worst = 0
    with connect(sys.argv[1]) as sidecar:
        for key_id in sys.argv[2:] or (line.rstrip("\n") for line in sys.stdin):
            try:
                valid, code = ask(sidecar, key_id)
                worst = max(worst, 0 if valid else 1)
                print("yes" if valid else f"no {code}", flush=True)
            except CannotTell as problem:
                worst = 2
                print("cannot tell:", problem, flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
