"""harness.py - starts the daemon, watches it, and counts what passed.

A suite is a module with functions named test_*, run in order; each takes a Context. A test fails by
raising; `check` and `equal` raise with the values that differ. One that cannot run here raises Skip, which
is said and counted.
"""
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KEY = "test-key-0123456789abcdef"


class Failure(Exception):
    pass


class Skip(Exception):
    """What this machine lacks for the test."""


def check(ok, *what):
    if not ok:
        raise Failure(" ".join(str(w) for w in what))


def equal(got, want, *what):
    if got != want:
        raise Failure(f"{' '.join(str(w) for w in what)}: want {want!r:.600}, got {got!r:.600}")


def free_port():
    """Below the ports that the kernel gives to callers, so that it is free still when it is used."""
    for port in random.sample(range(12000, 32000), 100):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise Failure("no port of loopback is free")


class Server:
    """One daemon on a loopback port, with one API key."""

    def __init__(self, binary, model, *options, env=None, prefix=()):
        self.port = free_port()
        self.dir = tempfile.TemporaryDirectory(prefix="inferd-e2e-")
        self.log_path = os.path.join(self.dir.name, "log")
        key_path = os.path.join(self.dir.name, "keys")
        with open(os.open(key_path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(KEY + "\n")
        self.args = [*prefix, binary, "serve", "--model", model, "--port", str(self.port),
                     "--served-model-name", "test-model", "--api-key-file", key_path, *options]
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, env=env and {**os.environ, **env})
        self.pid = self.process.pid
        self.wait_ready(120)

    def wait_ready(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failure(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise Failure(f"not ready after {seconds} s:\n{self.tail()}")

    def tail(self, n=30):
        with open(self.log_path, errors="replace") as f:
            return "".join(f.readlines()[-n:])

    def get(self, path, key=KEY, timeout=30):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            c.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def post(self, path, body, timeout=300):
        """(status, answer as JSON) of one POST; body is text, bytes or something for json.dumps."""
        if not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            c.request("POST", path, body, {"Authorization": f"Bearer {KEY}",
                                           "Content-Type": "application/json"})
            r = c.getresponse()
            text = r.read().decode()
            try:
                return r.status, json.loads(text)
            except ValueError:
                return r.status, text
        finally:
            c.close()

    def stream(self, path, body, timeout=300):
        """Yields the data of each event of a stream, "[DONE]" too."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            c.request("POST", path, json.dumps(dict(body, stream=True)),
                      {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
            r = c.getresponse()
            if r.status != 200:
                raise Failure(f"stream: {r.status} {r.read()[:500]!r}")
            for line in r:
                line = line.decode().rstrip("\n")
                if line.startswith("data: "):
                    yield line[6:]
                elif line:
                    raise Failure(f"not an event: {line!r}")
        finally:
            c.close()

    def stream_text(self, path, body, timeout=300, on_event=lambda data: None):
        """(text of choice 0, finish reason) of a stream that must end in [DONE]."""
        text, finish, done = "", None, False
        for data in self.stream(path, body, timeout):
            check(not done, "an event after [DONE]:", data)
            on_event(data)
            if data == "[DONE]":
                done = True
                continue
            event = json.loads(data)
            check("error" not in event, "error event:", data)
            for c in event["choices"]:
                text += c["delta"].get("content") or "" if "delta" in c else c["text"]
                finish = c["finish_reason"] or finish
        check(done, "the stream ended without [DONE] after", repr(text[-100:]))
        return text, finish

    def metrics(self):
        values = {}
        status, text = self.get("/metrics")
        equal(status, 200, "/metrics")
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def metric(self, name):
        """The sum of a family over its labels."""
        values = [v for k, v in self.metrics().items() if k.split("{")[0] == name]
        check(values, "no metric", name)
        return sum(values)

    def engine_pid(self):
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as f:
            children = [int(p) for p in f.read().split()]
        for task in os.listdir(f"/proc/{self.pid}/task"):
            try:
                with open(f"/proc/{self.pid}/task/{task}/children") as f:
                    children += [int(p) for p in f.read().split()]
            except OSError:
                pass
        return children[0] if children else 0

    def open_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def wait_fds(self, most, seconds=20):
        """Until no more files are open than `most`, counted at rest before."""
        end = time.monotonic() + seconds
        while self.open_fds() > most:
            check(time.monotonic() < end, "open files", self.open_fds(), "before", most)
            time.sleep(0.1)

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(next(line for line in f if line.startswith("VmRSS")).split()[1])

    def wait_idle(self, seconds=30):
        """Until nothing runs or waits and every KV block is free."""
        end = time.monotonic() + seconds
        while True:
            m = self.metrics()
            state = {k: m[k + label] for k, label in self.gauges(m)}
            if (state["inferd_requests_running"] == 0 and state["inferd_requests_waiting"] == 0
                    and state["inferd_kv_blocks_free"] == state["inferd_kv_blocks"]):
                return
            check(time.monotonic() < end, "not idle after", seconds, "s:", state)
            time.sleep(0.02)

    @staticmethod
    def gauges(m):
        names = ("inferd_requests_running", "inferd_requests_waiting", "inferd_kv_blocks_free",
                 "inferd_kv_blocks")
        return [(k.split("{")[0], k[len(k.split("{")[0]):]) for k in m if k.split("{")[0] in names]

    def alive(self):
        return self.process.poll() is None

    def stop(self):
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, signal.SIGKILL)
                self.process.wait()
                raise Failure("the daemon did not stop within 60 s of SIGTERM")
        self.log.close()
        code = self.process.returncode
        if code != 0:
            raise Failure(f"the daemon ended with {code}:\n{self.tail()}")
        self.dir.cleanup()


def start(options, suite_options):
    return Server(options.binary, options.model, "--engine", options.engine, *suite_options)


class Context:
    """What a test gets: the daemon, the options of the run, and a place to say figures."""

    def __init__(self, server, options):
        self.server = server
        self.options = options

    def say(self, *words):
        print("     ", *words, flush=True)


class Canary:
    """One stream, again and again, beside whatever else happens: every time the same bytes."""

    body = {"model": "test-model", "prompt": "The tallest mountain of the world is",
            "max_tokens": 24, "temperature": 0, "seed": 1}

    def __init__(self, server):
        self.server = server
        self.want = server.stream_text("/v1/completions", self.body)
        self.n = 0
        self.error = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            while not self.stopping.is_set():
                equal(self.server.stream_text("/v1/completions", self.body), self.want, "canary")
                self.n += 1
        except Exception as e:
            self.error = e

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        self.thread.join()
        if self.error:
            raise Failure(f"canary, after {self.n} runs: {self.error}")
        check(self.n > 0, "the canary never finished a run")


class Tally:
    def __init__(self):
        self.n_passed = 0
        self.failed = []
        self.skipped = []

    def run(self, name, function, *args):
        start = time.monotonic()
        try:
            function(*args)
        except Skip as e:
            self.skipped.append(name)
            print(f"SKIP  {name}: {e}", flush=True)
        except Exception as e:
            self.failed.append(name)
            print(f"FAIL  {name}", flush=True)
            if isinstance(e, Failure):
                print(f"      {e}", flush=True)
            else:
                traceback.print_exc()
        else:
            self.n_passed += 1
            print(f"pass  {name}  ({time.monotonic() - start:.1f} s)", flush=True)

    def run_suite(self, module, context):
        for name, function in list(vars(module).items()):
            if name.startswith("test_"):
                self.run(f"{module.__name__}: {name[5:].replace('_', ' ')}", function, context)

    def line(self):
        """The last line of a run."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.n_passed} passed, {len(self.failed)} failed{skipped}"


def run_parallel(jobs):
    """Runs functions in threads; returns their values in order; raises the first error."""
    values, errors = [None] * len(jobs), []

    def run(i):
        try:
            values[i] = jobs[i]()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return values
