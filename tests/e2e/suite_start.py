"""What the daemon says when it starts: the memory plan, and which instructions it uses."""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Server, check, equal

MODEL = Path(__file__).parent.parent / "golden/hf/tied-f32"
MAKE_FOLDER = Path(__file__).parent.parent / "gpu/make_random_hf.py"
OPTIONS = ("--kv-memory", "256MiB", "--cpu-isa", "scalar", "--log-requests", "off")


def rows(table):
    """The table without the memory that was free, which changes from run to run."""
    return [line for line in table.splitlines() if not line.startswith("  total")]


def table_of_check(c):
    said = subprocess.run([c.options.binary, "check", c.options.model, *OPTIONS[:4]], check=True,
                          capture_output=True, text=True).stdout
    return said[said.index("device\n"):]


def log_of(server):
    """The lines of its start; the last of them may come a moment after it answers."""
    end = time.monotonic() + 5
    while "engine ready" not in server.tail():
        check(time.monotonic() < end, "never ready:", server.tail())
        time.sleep(0.02)
    with open(server.log_path) as f:
        return f.read().splitlines()


def test_the_log_shows_the_memory_plan_in_lines(c):
    messages = [line.split(" ", 1)[1].removeprefix("info  ") for line in log_of(c.server)]
    first = messages.index("device")
    want = rows(table_of_check(c))
    equal(rows("\n".join(messages[first:first + len(want) + 1])), want, "table in the log")
    equal(messages.count("device"), 1, "tables")


def test_the_log_shows_the_memory_plan_as_one_event(c):
    server = Server(c.options.binary, c.options.model, *OPTIONS, "--log-format", "json",
                    "--engine", c.options.engine)
    events = [json.loads(line) for line in log_of(server)]
    server.stop()
    plans = [e for e in events if e["msg"] == "memory plan"]
    equal(len(plans), 1, "plans")
    equal(rows(plans[0]["text"]), rows(table_of_check(c)), "table in the log")


def test_the_log_says_which_instructions_are_used(c):
    check(any(" isa=scalar " in line for line in log_of(c.server)), c.server.tail())
    check(not any("cpu-isa" in line for line in log_of(c.server)), c.server.tail())


def test_random_weights_want_no_file_of_weights_and_are_named(c):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, MAKE_FOLDER, "tiny", folder, "--texts"], check=True, capture_output=True)
        server = Server(c.options.binary, folder, *OPTIONS, "--weights", "random", "--engine", c.options.engine)
        body = {"model": "test-model", "prompt": "a", "max_tokens": 5, "ignore_eos": True}
        status, answer = server.post("/v1/completions", body)
        equal(status, 200, answer)
        equal(answer["usage"]["completion_tokens"], 5, "tokens")
        check(any("weights are random" in line for line in log_of(server)), server.tail())
        server.stop()


def test_no_message_gets_into_a_file_when_the_standard_ones_are_closed(c):
    with tempfile.TemporaryDirectory() as folder:
        for name, closed in (("open", ()), ("closed", (0, 1, 2))):
            done = subprocess.run([c.options.binary, "quantize", MODEL, f"{folder}/{name}",
                                   "--scheme", "int8"], capture_output=not closed,
                                  preexec_fn=lambda: [os.close(fd) for fd in closed])
            equal(done.returncode, 0, name)
        files = [Path(folder, name, "model.safetensors").read_bytes() for name in ("open", "closed")]
        check(files[0] == files[1], "the files differ")
