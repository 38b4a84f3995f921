"""What the daemon and its service manager owe each other: readiness, a pulse, the listening socket."""
import http.client
import os
import socket
import subprocess
import threading
import time

from harness import check, equal, free_port

OPTIONS = ("--engine", "fake", "--log-requests", "off")
# LISTEN_PID must be the daemon's own: exec keeps the shell's.
INHERIT = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'


def serve_args(c, *options):
    return [c.options.binary, "serve", "--model", c.options.model, "--served-model-name", "m",
            "--engine", "fake", "--log-requests", "off", *options]


def start_with_socket(c, listener, *options):
    """A daemon whose descriptor 3 is `listener`."""
    def place():
        os.dup2(listener.fileno(), 3, inheritable=True)

    return subprocess.Popen(["sh", "-c", INHERIT, "sh", *serve_args(c, *options)], close_fds=False,
                            preexec_fn=place, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def listen(address):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 0))
    s.listen(512)
    return s


def end(process):
    process.terminate()
    said = process.communicate(timeout=60)[0]
    equal(process.returncode, 0, "exit status", said)


def ask(port):
    """(status, body) of one small completion on a connection of its own, sent in one piece."""
    body = '{"model":"m","prompt":"hi","max_tokens":2}'
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                  .encode())
        r = http.client.HTTPResponse(s)
        r.begin()
        return r.status, r.read().decode()


def wait_for(happens, *what):
    end = time.monotonic() + 30
    while not happens():
        check(time.monotonic() < end, "not within 30 s:", *what)
        time.sleep(0.01)


def test_the_manager_hears_ready_then_a_pulse_then_stopping(c):
    address = f"\0inferd-e2e-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(address)
        s.settimeout(30)
        env = dict(os.environ, NOTIFY_SOCKET="@" + address[1:], WATCHDOG_USEC="1000000")
        process = subprocess.Popen(serve_args(c, "--port", str(free_port())), env=env,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        said, times = [], []
        while said.count("WATCHDOG=1") < 5 or "READY=1" not in said:
            said.append(s.recv(256).decode())
            if said[-1] == "WATCHDOG=1":
                times.append(time.monotonic())
        process.terminate()
        while said[-1] != "STOPPING=1":
            said.append(s.recv(256).decode())
        equal(process.wait(60), 0, "exit status")
    gaps = [b - a for a, b in zip(times, times[1:])]
    check(max(gaps) < 1, "longest gap between two signs of life", max(gaps))
    check("READY=1" in said, said)


def test_a_restart_on_the_managers_socket_refuses_nobody(c):
    """The rule of socket activation: who comes while no process serves waits, and is served."""
    listener = listen("127.0.0.1")
    port = listener.getsockname()[1]
    counts = {"ok": 0, "again": 0}
    errors, done = [], threading.Event()

    def client():
        while not done.is_set():
            try:
                status, body = ask(port)
            except OSError as e:
                errors.append(repr(e))
                return
            if status == 200:
                counts["ok"] += 1
            elif status == 503 and '"draining"' in body:
                counts["again"] += 1  # it was accepted before the signal
            elif status == 503 and '"engine_starting"' in body:
                counts["again"] += 1
            else:
                errors.append(f"{status} {body}")
                return

    process = start_with_socket(c, listener, "--port", "1")
    threads = [threading.Thread(target=client) for _ in range(4)]
    try:
        for t in threads:
            t.start()
        for _ in range(5):
            seen = counts["ok"]
            wait_for(lambda: counts["ok"] >= seen + 20 or errors, counts)
            equal(errors, [], "errors after", counts)
            end(process)
            process = start_with_socket(c, listener, "--port", "1")
        wait_for(lambda: counts["ok"] >= seen + 24 or errors, counts)
        done.set()
        for t in threads:
            t.join()
        equal(errors, [], "errors after", counts)
        end(process)
    finally:
        done.set()
        process.kill()
        process.wait()
        listener.close()
    c.say(f"5 restarts: {counts['ok']} answers, {counts['again']} told to come again, none refused")


def test_an_inherited_socket_that_others_can_reach_wants_keys(c):
    with listen("0.0.0.0") as listener:
        process = start_with_socket(c, listener)
        said = process.communicate(timeout=60)[0]
    equal(process.returncode, 2, "exit status", said)
    check("can be reached from elsewhere" in said, said)


def test_what_is_no_listening_socket_is_refused(c):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        process = start_with_socket(c, s)
        said = process.communicate(timeout=60)[0]
    equal(process.returncode, 2, "exit status", said)
    check("no listening TCP socket" in said, said)


def health(c, *options):
    return subprocess.run([c.options.binary, "health", *options], capture_output=True, text=True,
                          timeout=60)


def test_health_says_what_readyz_says(c):
    said = health(c, "--port", str(c.server.port))
    equal((said.returncode, said.stderr), (0, ""), "of a daemon that is ready")
    check('"status":"ok"' in said.stdout, said.stdout)
    said = health(c, "--host", "0.0.0.0", "--port", str(c.server.port))
    equal(said.returncode, 0, "of a daemon that listens everywhere", said.stderr)
    said = health(c, "--port", str(free_port()))
    equal(said.returncode, 1, "of no daemon")
    check("Connection refused" in said.stderr, said.stderr)
    said = health(c, "--prot", "1")
    equal(said.returncode, 2, "of a misspelt option")


def test_health_fails_while_the_daemon_drains(c):
    port = free_port()
    process = subprocess.Popen(serve_args(c, "--port", str(port), "--fake-step-us", "20000"),
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: health(c, "--port", str(port)).returncode == 0, "ready")
        busy = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        busy.request("POST", "/v1/completions",
                     '{"model":"m","prompt":"hi","max_tokens":100,"stream":true}',
                     {"Content-Type": "application/json"})
        r = busy.getresponse()
        r.readline()  # it runs
        process.terminate()
        time.sleep(0.3)
        said = health(c, "--port", str(port))
        equal(said.returncode, 1, "while it drains", said.stdout, said.stderr)
        check('"reason":"draining"' in said.stdout, said.stdout, said.stderr)
        r.read()
        busy.close()
        equal(process.wait(60), 0, "exit status")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_health_does_not_wait_for_ever(c):
    with listen("127.0.0.1") as listener:
        start = time.monotonic()
        said = health(c, "--port", str(listener.getsockname()[1]))
        seconds = time.monotonic() - start
    equal(said.returncode, 1, "of a socket that never answers")
    check(4 < seconds < 20, "seconds", seconds)
