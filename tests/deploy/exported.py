"""exported.py - the names that a running daemon exports, after a request that brings every family."""
import functools

from harness import Server, equal


@functools.cache
def names_of(binary, model):
    server = Server(binary, model, "--engine", "fake", "--log-requests", "off")
    try:
        body = {"model": "test-model", "prompt": "hi", "max_tokens": 4}
        equal(server.post("/v1/completions", body)[0], 200, "status")
        equal(server.post("/v1/completions", dict(body, model="other"))[0], 404, "status")
        return frozenset(name.split("{")[0] for name in server.metrics())
    finally:
        server.stop()


def exported(options):
    return names_of(options.binary, options.model)
