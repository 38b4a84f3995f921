"""What a client can send wrong: each class gets one named error, at once, and harms nobody else.

A canary stream runs beside each group; afterwards the engine is the same process and every block is
free.
"""
import json
import socket
import subprocess
import time

from harness import KEY, Canary, Failure, check, equal

M = '"model":"test-model"'
CHAT = M + ',"messages":[{"role":"user","content":"hi"}]'
COMP = M + ',"prompt":"hi"'
URL = {"chat": "/v1/chat/completions", "comp": "/v1/completions"}


def request(line, headers, body=b""):
    return (line + "\r\n" + "".join(h + "\r\n" for h in headers) + "\r\n").encode("latin-1") + body


def post(headers=(), body=b"{}", path="/v1/completions", length=True):
    h = ["Host: a", f"Authorization: Bearer {KEY}", "Content-Type: application/json", *headers]
    if length:
        h.append(f"Content-Length: {len(body)}")
    return request(f"POST {path} HTTP/1.1", h, body)


def send_raw(c, data, seconds=10, half_close=False):
    """Everything the daemon says to these bytes until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", c.server.port), timeout=seconds) as s:
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        got = b""
        s.settimeout(1.0)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                more = s.recv(65536)
                if not more:
                    return got, True
                got += more
        except (socket.timeout, ConnectionResetError) as e:
            return got, isinstance(e, ConnectionResetError)
    return got, False


def status_of(got):
    check(got.startswith(b"HTTP/1.1 "), "no answer:", got[:100])
    return int(got[9:12])


def one_answer(got, closed):
    """One answer, and one JSON object if it is an error. libmicrohttpd before 1.0.5 refuses some
    heads before any handler sees them: in HTML, and a bad Content-Length with its head written
    twice. What must hold even then: the same refusal, and no byte of the rest is served."""
    heads = got.count(b"HTTP/1.1 ")
    if heads != 1 and b"<html>" in got:
        check(closed, "open after a refusal in", got[:400])
        equal(heads, got.count(got[:12]), "answers other than the first in", got[:400])
        return
    equal(heads, 1, "answers in", got[:400])


def error_of(status, answer, seconds):
    check(isinstance(answer, dict) and set(answer) == {"error"}, "no error object:", status, answer)
    e = answer["error"]
    equal(set(e), {"message", "type", "param", "code"}, "members of the error")
    check(e["message"] and len(e["message"].encode()) <= 512, e)
    for secret in (KEY, "/root", "/home", "0x7f", "SECRET"):
        check(secret not in e["message"], "the message says too much:", e["message"])
    check(seconds < 5, "slow:", seconds)
    return e


def run_group(c, cases):
    """cases: (name, kind or path, body, status or statuses, code or None, param or None)"""
    pid, wrong = c.server.engine_pid(), []
    with Canary(c.server):
        for name, kind, body, statuses, code, param in cases:
            start = time.monotonic()
            try:
                status, answer = c.server.post(URL.get(kind, kind), body, timeout=60)
                seconds = time.monotonic() - start
                check(status in (statuses if isinstance(statuses, tuple) else (statuses,)),
                      "status", status, json.dumps(answer)[:300])
                if status >= 400:
                    e = error_of(status, answer, seconds)
                    if code:
                        equal(e["code"], code, "code")
                    if param is not None:
                        equal(e["param"], param, "param")
            except Failure as e:
                wrong.append(f"{name}: {e}")
            except OSError as e:
                wrong.append(f"{name}: {e!r}")
    check(not wrong, f"{len(wrong)} of {len(cases)} cases:\n      " + "\n      ".join(wrong))
    equal(c.server.engine_pid(), pid, "engine pid")
    c.server.wait_idle()
    c.say(len(cases), "cases")


def comp(more):
    return "{" + COMP + "," + more + "}"


def chat(more):
    return "{" + CHAT + "," + more + "}"


def message(text):
    return "{" + M + ',"messages":[' + text + "]}"


def test_http_framing(c):
    body = ("{" + COMP + ',"max_tokens":1}').encode()
    n = len(body)
    hidden = request("GET /v1/models HTTP/1.1", ["Host: a", f"Authorization: Bearer {KEY}"])
    cases = [
        ("H01 equal lengths twice", post([f"Content-Length: {n}"], body), 400),
        ("H02 two lengths", post(["Content-Length: 3"], body + hidden), 400),
        ("H02 two lengths, other order",
         request("POST /v1/completions HTTP/1.1", ["Host: a", f"Content-Length: {n}",
                                                  f"Authorization: Bearer {KEY}",
                                                  "Content-Type: application/json",
                                                  "Content-Length: 3"], body + hidden), 400),
        ("H04 two hosts", post(["Host: b"], body), 400),
        ("H04 two authorizations", post([f"Authorization: Bearer {KEY}"], body), 400),
        ("H04 two content types", post(["Content-Type: application/json"], body), 400),
        *[("H05 length " + v, post([f"Content-Length: {v}"], body, length=False), (400, 413))
          for v in ("-1", "+3", "3x", "0x3", "", "3, 3", "3 4", "99999999999999999999")],
        ("length with chunked", post(["Transfer-Encoding: chunked"], b"0\r\n\r\n" + hidden), 400),
        ("H10 chunked on 1.0",
         post(["Transfer-Encoding: chunked"], b"0\r\n\r\n", length=False).replace(b"/1.1", b"/1.0", 1),
         400),
        *[("H11 chunk " + v, post(["Transfer-Encoding: chunked"],
                                  v.encode() + b"\r\n{}\r\n0\r\n\r\n", length=False), (0, 400, 413))
          for v in ("fffffffffffffffff", "8000000000000000", "-3", "0x3", "")],
        *[(f"H16 byte {b:#x} in a header",
           post(["X-A: a" + chr(b) + "b"], body), 400) for b in (0, 1, 0x0b, 0x1f, 0x7f)],
        ("H17 method", request("G(T / HTTP/1.1", ["Host: a"]), (400, 501)),
        ("H17 long method", request("G" * 1000 + " / HTTP/1.1", ["Host: a"]), (400, 414, 501)),
        ("H19 no host", request("GET /livez HTTP/1.1", []), 400),
        ("H19 host with a space", request("GET /livez HTTP/1.1", ["Host: a b"]), 400),
        ("H20 long URI", request("GET /" + "a" * 9000 + " HTTP/1.1", ["Host: a"]), 414),
        ("H22 path up", request("GET /v1/../v1/models HTTP/1.1", ["Host: a"]), (400, 401, 404)),
        ("H22 escaped path up", request("GET /%2e%2e/etc/passwd HTTP/1.1", ["Host: a"]),
         (400, 401, 404)),
        ("H22 %00", request("GET /%00 HTTP/1.1", ["Host: a"]), (400, 404)),
        ("H22 %zz", request("GET /%zz HTTP/1.1", ["Host: a"]), (400, 404)),
        ("H31 text/plain",
         post(body=body).replace(b"application/json", b"text/plain"), 415),
        ("H31 utf-16", post(body=body).replace(b"application/json",
                                               b"application/json; charset=utf-16"), 415),
        ("H32 wrong method", request("GET /v1/completions HTTP/1.1",
                                     ["Host: a", f"Authorization: Bearer {KEY}"]), 405),
        ("H32 unknown route", request("GET /nothing HTTP/1.1",
                                      ["Host: a", f"Authorization: Bearer {KEY}"]), 404),
        ("H34 TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 500, (0, 400)),
        ("H34 SSH", b"SSH-2.0-OpenSSH_9.2\r\n", (0, 400)),
        *[("H43 authorization " + repr(v)[:20],
           request("GET /v1/models HTTP/1.1", ["Host: a", "Authorization: " + v]), (400, 401))
          for v in ("Bearer", "bearer", "Bearer a b", "Basic " + KEY, "Bearer \xff\xfe", KEY)],
        ("body over the limit", post([], b" " * (9 << 20)), 413),
    ]
    wrong, pid = [], c.server.engine_pid()
    with Canary(c.server):
        for name, data, statuses in cases:
            statuses = statuses if isinstance(statuses, tuple) else (statuses,)
            try:
                got, closed = send_raw(c, data)
                if not got:
                    check(0 in statuses or closed and b"\xff" in data, "no answer")
                    continue
                check(status_of(got) in statuses, got[:200])
                one_answer(got, closed)
            except (Failure, OSError) as e:
                wrong.append(f"{name}: {e!r}")
    check(not wrong, f"{len(wrong)} of {len(cases)} cases:\n      " + "\n      ".join(wrong))
    equal(c.server.engine_pid(), pid, "engine pid")
    c.server.wait_idle()
    c.say(len(cases), "cases")


def test_a_request_cut_at_every_byte_leaves_nothing(c):
    data = post(body=("{" + COMP + ',"max_tokens":2}').encode())
    fds = c.server.open_fds()
    with Canary(c.server):
        for n in range(len(data)):
            with socket.create_connection(("127.0.0.1", c.server.port), timeout=10) as s:
                s.sendall(data[:n])
    c.server.wait_idle()
    end = time.monotonic() + 10
    while c.server.open_fds() > fds + 2:
        check(time.monotonic() < end, "open files", c.server.open_fds(), "before", fds)
        time.sleep(0.1)
    c.say(len(data), "cuts")


def test_json(c):
    whole = "{" + CHAT + ',"max_tokens":1,"stop":["a","\\u00e9"]}'
    big = "[" + "1," * (2 << 20) + "1]"
    run_group(c, [
        *[("J02 " + repr(b), "chat", b, 400, None, None)
          for b in ("", "   ", "null", "[]", "123", '"x"', "true")],
        *[(f"J03 cut at {i}", "chat", whole[:i], 400, None, None) for i in range(0, len(whole), 3)],
        ("J05 deep in an unknown field", "comp", comp('"x":' + "[" * 65 + "]" * 65), 400,
         "json_too_deep", None),
        ("J05 very deep", "comp", comp('"x":' + "[" * 100000), 400, None, None),
        ("J05 deep in tools", "chat", chat('"tools":' + '[{"a":' * 40 + "1" + "}]" * 40), 400,
         "json_too_deep", None),
        ("J06 twice", "comp", comp('"n":1,"n":2'), 400, "duplicate_key", None),
        ("J06 twice, nested", "comp", comp('"x":{"a":1,"a":1}'), 400, "duplicate_key", None),
        ("J06 twice, escaped", "comp", comp('"n":1,"\\u006e":2'), 400, "duplicate_key", None),
        ("J08 NUL", "comp", "{" + M + ',"prompt":"a\\u0000b"}', 400, "nul_in_string", None),
        ("J08 raw NUL", "comp", b"{" + M.encode() + b',"prompt":"a\x00b"}', 400, None, None),
        *[("J11 " + s, "comp", "{" + M + ',"prompt":"' + s + '"}', 400, None, None)
          for s in ("\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud800\\u0041")],
        *[("J12 " + n[:20], "comp", comp('"x":' + n), 400, None, None)
          for n in ("9" * 1000000, "1e999", "01", "1.", "1e", ".5", "+1", "0x10", "NaN", "Infinity")],
        ("J12 -0", "comp", comp('"presence_penalty":-0,"max_tokens":1'), 200, None, None),
        ("J14 BOM", "comp", b"\xef\xbb\xbf{" + COMP.encode() + b"}", 400, None, None),
        ("J14 UTF-16", "comp", ("{" + COMP + "}").encode("utf-16"), 400, None, None),
        ("J14 UTF-32", "comp", ("{" + COMP + "}").encode("utf-32-le"), 400, None, None),
        ("J14 Latin-1", "comp", ("{" + M + ',"prompt":"\xe9"}').encode("latin-1"), 400,
         "invalid_utf8", None),
        ("J15 two million numbers", "comp", "{" + M + ',"prompt":' + big + "}", 400,
         "json_too_many_values", None),
        ("J15 a million arrays", "comp", comp('"x":[' + "[]," * 1100000 + "1]"), 400,
         "json_too_many_values", None),
        *[("J17 long " + f, "chat", chat(f'"max_tokens":1,"{f}":"' + "a" * (1 << 20) + '"'), (200, 400), None,
           None)
          for f in ("user", "id", "cache_salt", "service_tier")],
        ("J17 long model", "chat", '{"model":"' + "a" * (1 << 20) + '","messages":[]}', 400, None,
         "model"),
        ("J17 long role", "chat", message('{"role":"' + "a" * (1 << 20) + '","content":""}'), 400,
         None, "messages[0].role"),
        ("J17 long name", "chat",
         message('{"role":"user","content":"","name":"' + "a" * (1 << 20) + '"}'), 400, None,
         "messages[0].name"),
        *[("J20 " + b, "chat", "{" + CHAT + b, 400, None, None)
          for b in (",}", ",'n':1}", ",/* */\"n\":1}", ",\"n\":1,}", ",n:1}")],
    ])


def test_parameters(c):
    bad = lambda kind, more, param, code="invalid_value": (
        more[:50], kind, (comp if kind == "comp" else chat)(more), 400, code, param)
    run_group(c, [
        ("P01 empty", "comp", "{" + M + ',"prompt":""}', 400, "empty_prompt", "prompt"),
        ("P01 []", "comp", "{" + M + ',"prompt":[]}', 400, "empty_prompt", "prompt"),
        ("P01 [[]]", "comp", "{" + M + ',"prompt":[[]]}', 400, "empty_prompt", "prompt[0]"),
        ("P01 messages []", "chat", message(""), 400, "empty_prompt", "messages"),
        ("P03 no model", "comp", '{"prompt":"a"}', 400, "missing_required_parameter", "model"),
        *[("P03 model " + m[:20], "comp", '{"model":"' + m + '","prompt":"a"}', 404,
           "model_not_found", "model") for m in ("", "gpt-4", "a" * 4096, "../../etc/passwd", "C:\\\\x")],
        *[bad("comp", f'"max_tokens":{v}', "max_tokens") for v in
          ("0", "-1", "2147483648", "9007199254740993", "9223372036854775808", "1e300")],
        ("P04 2^31 - 1", "comp", comp('"max_tokens":2147483647'), 400, "context_length_exceeded", None),
        *[bad("chat", f'"temperature":{v}', "temperature") for v in ("-0.1", "2.01", "1e308")],
        bad("chat", '"temperature":"hot"', "temperature", "invalid_type"),
        *[("P07 tiny", "chat", chat(f'"temperature":{v},"max_tokens":2'), 200, None, None)
          for v in ("1e-45", "1e-6", "1e-300", "0")],
        bad("chat", '"min_tokens":5,"max_tokens":4', "min_tokens"),
        bad("chat", '"min_tokens":10000000', "min_tokens"),
        *[bad("chat", f'"n":{v}', "n") for v in ("0", "-1", "129", "2147483647")],
        *[bad("chat", f'"{p}":{v}', p) for p in ("presence_penalty", "frequency_penalty")
          for v in ("2.01", "-2.01")],
        *[bad("chat", f'"repetition_penalty":{v}', "repetition_penalty")
          for v in ("0", "-1", "1e-30", "1e30")],
        *[("P16 seed", "comp", comp(f'"max_tokens":1,"seed":{v}'), 200, None, None)
          for v in ("-9223372036854775808", "9223372036854775807", "0")],
        bad("comp", '"seed":9223372036854775808', "seed"),
        bad("comp", '"seed":1.5', "seed", "invalid_type"),
        bad("comp", '"seed":"x"', "seed", "invalid_type"),
        *[bad("comp", '"logit_bias":{"%s":1}' % k, "logit_bias")
          for k in ("-1", "999999999", "1e3", "abc", "")],
        bad("comp", '"logit_bias":{"5":101}', "logit_bias.5"),
        ("P19 many", "comp", comp('"logit_bias":{' + ",".join(f'"{i}":1' for i in range(1025)) + "}"),
         400, None, None),
        ("P19 1024", "comp", comp('"max_tokens":1,"logit_bias":{'
                                  + ",".join(f'"{i}":1' for i in range(1024)) + "}"), 200, None, None),
        ("P21", "comp", comp('"echo":true,"max_tokens":0,"logprobs":5'), 200, None, None),
        bad("chat", '"stream":"yes"', "stream", "invalid_type"),
        bad("chat", '"stream_options":{"include_usage":true}', "stream_options"),
        bad("chat", '"tools":[]', "tools", "unsupported_parameter"),
        bad("chat", '"tool_choice":{"type":"function"}', "tool_choice", "unsupported_parameter"),
        *[("P27 " + t, "chat", message('{"role":"user","content":[{"type":"%s","%s":{"url":'
                                       '"http://169.254.169.254/"}}]}' % (t, t)), 400,
           "unsupported_content", "messages[0].content[0]")
          for t in ("image_url", "input_audio", "file")],
        bad("chat", '"user":"' + "a" * 513 + '"', "user", "string_too_long"),
        bad("chat", '"metadata":{' + ",".join(f'"{i}":"a"' for i in range(17)) + "}", "metadata"),
        ("P30 unknown fields", "comp",
         comp('"max_tokens":1,' + ",".join(f'"x{i}":{{"y":[1]}}' for i in range(1000))), 200, None, None),
        bad("chat", '"cache_salt":""', "cache_salt"),
        bad("chat", '"cache_salt":"' + "a" * 129 + '"', "cache_salt", "string_too_long"),
        bad("chat", '"cache_salt":{}', "cache_salt", "invalid_type"),
        ("P34", "comp", "{" + M + ',"prompt":[' + ",".join(['"a"'] * 10000) + "]}", 400,
         "invalid_value", "prompt"),
        bad("comp", '"suffix":"a"', "suffix", "unsupported_parameter"),
        bad("chat", '"functions":[{}]', "functions", "unsupported_parameter"),
        bad("chat", '"function_call":"auto"', "function_call", "unsupported_parameter"),
        ("P40 four greedy choices", "comp",
         comp('"max_tokens":4,"temperature":0,"n":4,"seed":1'), 200, None, None),
    ])


def test_every_field_with_every_wrong_type(c):
    takes = {"model": "s", "messages": "a", "max_tokens": "n", "max_completion_tokens": "n",
             "temperature": "n", "top_p": "n", "top_k": "n", "min_p": "n", "n": "n", "best_of": "n",
             "stream": "b", "stream_options": "o", "stop": "sa", "stop_token_ids": "a", "seed": "n",
             "presence_penalty": "n", "frequency_penalty": "n", "repetition_penalty": "n",
             "logit_bias": "o", "logprobs": "b", "top_logprobs": "n", "ignore_eos": "b",
             "min_tokens": "n", "user": "s", "store": "b", "metadata": "o", "service_tier": "s",
             "response_format": "o", "chat_template_kwargs": "o", "add_generation_prompt": "b"}
    values = {"s": '"x"', "n": "1", "b": "true", "a": "[true]", "o": '{"a":true}'}
    cases = []
    for field, types in takes.items():
        for t, value in values.items():
            if t not in types:
                base = {"model": '"messages":[{"role":"user","content":"hi"}]',
                        "messages": M}.get(field, CHAT)
                cases.append((f"{field} = {value}", "chat", "{" + base + f',"{field}":{value}' + "}",
                              400, "invalid_type", field))
    run_group(c, cases)


def test_tokens_and_text(c):
    worst = ["a" * 300000, "ab" * 200000, " " * 700000, "\u200d" * 100000, "1" * 300000,
             "\U0001F600" * 60000, "aaaaaaaaab" * 30000, "\n" * 200000, "\u0301" * 100000]
    start = time.monotonic()
    run_group(c, [
        *[(f"T02 {w[:4]!r}", "comp", json.dumps({"model": "test-model", "prompt": w}), 400,
           "context_length_exceeded", "prompt") for w in worst],
        ("T03 long text", "comp", json.dumps({"model": "test-model", "prompt": "word " * 400000}), 400,
         "context_length_exceeded", "prompt"),
        *[("T05 id " + v, "comp", "{" + M + f',"prompt":[1,{v}]}}', 400, None, "prompt[1]")
          for v in ("-1", "49152", "4294967296", "1.5", "1e300")],
        *[("T06 stop id " + v, "comp", comp(f'"stop_token_ids":[{v}]'), 400, None, "stop_token_ids[0]")
          for v in ("-1", "49152", "1000000")],
        *[(f"T09 only {i}", "comp", "{" + M + f',"max_tokens":2,"prompt":[{i}]}}', 200, None, None)
          for i in (0, 1, 2)],
        ("detokenize id", "/detokenize", '{"tokens":[49152]}', 400, None, "tokens[0]"),
        ("tokenize nothing", "/tokenize", "{}", 400, None, "prompt"),
    ])
    c.say(f"{time.monotonic() - start:.1f} s in all")


def test_templates(c):
    run_group(c, [
        ("C01", "chat", chat('"chat_template":"{{ 1 }}"'), 400, "unsupported_parameter",
         "chat_template"),
        ("C01 tokenize", "/tokenize", chat('"chat_template":"{{ 1 }}"'), 400,
         "unsupported_parameter", "chat_template"),
        ("C03 nested", "chat", chat('"chat_template_kwargs":{"a":{"b":1}}'), 400, None,
         "chat_template_kwargs"),
        ("C03 17 keys", "chat", chat('"chat_template_kwargs":{'
                                     + ",".join(f'"a{i}":1' for i in range(17)) + "}"), 400, None,
         "chat_template_kwargs"),
        ("C03 large", "chat", chat('"chat_template_kwargs":{"a":"' + "x" * 5000 + '"}'), 400, None,
         "chat_template_kwargs"),
        ("C04 tokenize", "/tokenize", chat('"chat_template_kwargs":{"a":{"b":1}}'), 400, None,
         "chat_template_kwargs"),
        ("C09 many messages", "chat",
         message(",".join(['{"role":"user","content":"a"}'] * 10000)), 400, None, None),
        ("C16 literal", "chat", chat('"max_tokens":1').replace("hi", "{{7*7}}{% for %}"), 200, None,
         None),
        ("role unknown", "chat", message('{"role":"SECRET","content":"a"}'), 400, None,
         "messages[0].role"),
    ])


def test_an_engine_that_cannot_start_ends_the_daemon(c):
    for option, says in (("--cpu-isa=none", "instruction set"), ("--kv-memory=1", "KV cache"),
                         ("--kv-memory=900GiB", "free")):
        got = subprocess.run([c.options.binary, "serve", "--model", c.options.model, "--port", "0",
                              option], capture_output=True, timeout=30, text=True)
        equal(got.returncode, 1, option)
        check("cannot start" in got.stderr and says in got.stderr, option, got.stderr[-500:])


def test_two_thousand_connections_that_say_nothing(c):
    fds = c.server.open_fds()
    with Canary(c.server):
        for _ in range(2000):
            socket.create_connection(("127.0.0.1", c.server.port), timeout=10).close()
    end = time.monotonic() + 10
    while c.server.open_fds() > fds + 2:
        check(time.monotonic() < end, "open files", c.server.open_fds(), "before", fds)
        time.sleep(0.1)
