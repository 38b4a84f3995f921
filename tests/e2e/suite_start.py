"""What the daemon says when it starts: the memory plan, and which instructions it uses."""
import contextlib
import json
import math
import os
import re
import select
import shutil
import struct
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


def make_spoilt(folder):
    """A model that is whole but for one number of its last matrix, which is none."""
    subprocess.run([sys.executable, MAKE_FOLDER, "tiny", folder, "--texts"], check=True, capture_output=True)
    config = json.loads(Path(folder, "config.json").read_text())
    width, ffn = config["hidden_size"], config["intermediate_size"]
    q, kv = (config["head_dim"] * config[f"num_{what}_heads"] for what in ("attention", "key_value"))
    shapes = {"embed_tokens": [config["vocab_size"], width], "norm": [width], "lm_head": [config["vocab_size"], width]}
    layer = {"input_layernorm": [width], "post_attention_layernorm": [width], "self_attn.q_proj": [q, width],
             "self_attn.k_proj": [kv, width], "self_attn.v_proj": [kv, width], "self_attn.o_proj": [width, q],
             "mlp.gate_proj": [ffn, width], "mlp.up_proj": [ffn, width], "mlp.down_proj": [width, ffn]}
    for il in range(config["num_hidden_layers"]):
        shapes.update({f"layers.{il}.{name}": shape for name, shape in layer.items()})
    if config.get("tie_word_embeddings"):
        del shapes["lm_head"]
    header, n = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header["lm_head.weight" if name == "lm_head" else f"model.{name}.weight"] = {
            "dtype": "BF16", "shape": shape, "data_offsets": [n, n + size]}
        n += size
    text = json.dumps(header).encode()
    numbers = b"\x00\x3c" * (n // 2 - 1) + b"\xc0\x7f"
    Path(folder, "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + numbers)


def test_a_load_that_fails_has_shown_the_memory_plan(c):
    with tempfile.TemporaryDirectory() as folder:
        make_spoilt(folder)
        done = subprocess.run([c.options.binary, "serve", folder, *OPTIONS, "--port", "0", "--quantize", "int8",
                               "--engine", c.options.engine], capture_output=True, text=True, timeout=60)
    equal(done.returncode, 1, done.stderr)
    lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    plan, end = lines.index("info  memory"), next(i for i, s in enumerate(lines) if "cannot start" in s)
    check(plan < end and "down_proj" in lines[end], done.stderr)
    check(any("matrices: int8" in line for line in lines[plan:end]), done.stderr)


def test_the_log_says_which_instructions_are_used(c):
    check(any(" isa=scalar " in line for line in log_of(c.server)), c.server.tail())
    check(not any("cpu-isa" in line for line in log_of(c.server)), c.server.tail())


def test_the_log_and_the_plan_name_the_type_of_activations(c):
    lines = log_of(c.server)
    check(any("engine ready" in line and " activations=f32 kv_dtype=f16 " in line for line in lines), c.server.tail())
    check(any(re.search(r" activations +[0-9.]+ MiB  f32, 512 tokens a step", line) for line in lines), lines)


def test_options_of_another_device_than_auto_found_are_named(c):
    idle = ("--gpu-memory", "0.1", "--dtype", "f16", "--device-index", "7", "--peer-memory", "off")
    names = "dtype, device-index, gpu-memory, peer-memory"
    said = subprocess.run([c.options.binary, "check", c.options.model, *OPTIONS[:4], *idle], check=True,
                          capture_output=True, text=True).stdout
    check(f"  warning: options without effect on cpu, 1 rank: {names}\n" in said, said)
    server = Server(c.options.binary, c.options.model, *OPTIONS, *idle, "--engine", c.options.engine)
    lines = [line for line in log_of(server) if "without effect" in line]
    server.stop()
    equal(len(lines), 1, "warnings", lines)
    check("warn" in lines[0] and names in lines[0] and "device=cpu" in lines[0], lines[0])
    check("without effect" not in c.server.tail(), c.server.tail())


def test_output_that_cannot_be_written_is_an_error(c):
    for command in (("config",), ("--version",), ("check", c.options.model)):
        with open("/dev/full", "w") as full:
            run = subprocess.run([c.options.binary, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        equal(run.returncode, 1, command)
        check("standard output" in run.stderr, command, run.stderr)


def test_variables_that_are_no_options_are_named(c):
    env = {"INFERD_KV_DTYP": "int8", "INFERD_SERVICE_HOST": "10.0.0.1",
           "INFERD_PORT_8080_TCP": "tcp://10.0.0.1:8080"}
    said = "environment variable INFERD_KV_DTYP is no option; did you mean INFERD_KV_DTYPE?"
    server = Server(c.options.binary, c.options.model, *OPTIONS, "--engine", c.options.engine, env=env)
    lines = [line for line in log_of(server) if "environment" in line]
    server.stop()
    equal([line.split(" ", 1)[1] for line in lines], [f"warn  {said}"], "warnings")
    for command in (("config",), ("check", c.options.model), ("bench", "engine", "/nowhere.gguf")):
        run = subprocess.run([c.options.binary, *command], env={**os.environ, **env},
                             capture_output=True, text=True, timeout=60)
        equal(run.stderr.splitlines()[0], f"inferd: warning: {said}", command)
    probed = subprocess.run([c.options.binary, "health", "--port", "1"], env={**os.environ, **env},
                            capture_output=True, text=True, timeout=60)
    check("warning" not in probed.stderr, "a probe keeps to its reason", probed.stderr)
    refused = subprocess.run([c.options.binary, "serve", c.options.model],
                             env={**os.environ, "INFERD_PORT": "tcp://10.0.0.1:8080"},
                             capture_output=True, text=True, timeout=30)
    equal(refused.returncode, 2, refused.stderr)
    check("enableServiceLinks: false" in refused.stderr, refused.stderr)


def make_deep(folder, n_layers):
    """A model without files of weights, whose random ones take some 10 ms a layer to make."""
    subprocess.run([sys.executable, MAKE_FOLDER, "small", folder, "--texts"], check=True, capture_output=True)
    config = Path(folder, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": n_layers}))


def test_a_terminal_sees_a_bar_while_the_model_loads(c):
    """The daemon looks every 250 ms; a load has to last several times as long on a quick machine too."""
    with tempfile.TemporaryDirectory() as folder:
        make_deep(folder, 256)
        watch_a_load(c, folder)


def watch_a_load(c, model):
    master, slave = os.openpty()
    args = [c.options.binary, "serve", model, *OPTIONS, "--port", "0", "--threads", "1",
            "--weights", "random", "--quantize", "int8", "--engine", c.options.engine]
    process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    seen, end = b"", time.monotonic() + 120
    try:
        while b"engine ready" not in seen:
            check(time.monotonic() < end and process.poll() is None, seen)
            if select.select([master], [], [], 1)[0]:
                seen += os.read(master, 4096)
    finally:
        process.terminate()
        end = time.monotonic() + 30
        while process.poll() is None:
            if time.monotonic() > end:
                process.kill()
            with contextlib.suppress(OSError):
                if select.select([master], [], [], 1)[0]:
                    os.read(master, 4096)
        os.close(master)
    text = seen.decode()
    bars = re.findall(r"\r(\[#*\.*\] +\d+%  \d+ of \d+ MiB)", text)
    check(bars, "no bar:", repr(text))
    check("percent=" not in text, text)
    check(re.search(r"\r *\r\d{4}-\S+ info  engine ready", text), "the bar stays:", repr(text[-500:]))


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
