"""compose.yaml: valid by the compose specification, and what it names is there."""
import os
import re

import compose_spec
import tools
import yaml
from harness import check, equal

FILES = ("compose.yaml", "compose.cuda.yaml")


def load(name):
    return yaml.safe_load(tools.read("deploy", name))


def refusal(text):
    """"" or why a reader of the specification refuses it; variables have some value by then."""
    try:
        compose_spec.PyCompose.from_yaml(re.sub(r"\$\{\w+[^}]*\}", "/some/value", text))
    except ValueError as e:
        return str(e)
    return ""


def test_the_specification_takes_both_files(c):
    for name in FILES:
        equal(refusal(tools.read("deploy", name)), "", name)


def test_the_specification_would_refuse_a_wrong_word_or_value(c):
    text = tools.read("deploy", FILES[0])
    for right, wrong in (("read_only: true\n    cap", "read_olny: true\n    cap"),
                         ("127.0.0.1:8080:8080", "127.0.0.1:80800:8080"), ("pids_limit: 512", "pids_limit: many")):
        check(right in text and refusal(text.replace(right, wrong)), wrong, "is taken")


def test_every_folder_secret_and_volume_exists(c):
    d = load(FILES[0])
    for name, service in d["services"].items():
        for v in service.get("volumes", []):
            source = v["source"] if isinstance(v, dict) else v.split(":")[0]
            if source.startswith("."):
                check(os.path.exists(tools.path("deploy", source)), name, source)
            elif not source.startswith("${"):
                check(source in d["volumes"], name, "volume", source)
        for s in service.get("secrets", []):
            check(s in d["secrets"], name, "secret", s)
        for other in service.get("depends_on", []):
            check(other in d["services"], name, "depends on", other)


def test_only_loopback_is_open(c):
    for name, service in load(FILES[0])["services"].items():
        for p in service["ports"]:
            check(p.startswith("127.0.0.1:"), name, "is open to others:", p)


def test_nothing_may_more_than_it_needs(c):
    for name, service in load(FILES[0])["services"].items():
        equal(service["cap_drop"], ["ALL"], name, "capabilities")
        check("no-new-privileges:true" in service["security_opt"], name, "security_opt")
        check("latest" not in service["image"] and ":" in service["image"], name, service["image"])
    check(load(FILES[0])["services"]["inferd"]["read_only"], "the root file system is writable")


def test_the_daemons_environment_is_options(c):
    env = dict(load(FILES[0])["services"]["inferd"]["environment"], INFERD_SERVED_MODEL_NAME="x")
    code, said = tools.say(c.options.binary, "config", env=env)
    equal(code, 0, said)
    for key in env:
        option = key[7:].lower().replace("_", "-")
        check(re.search(rf"(?m)^{option} = {re.escape(env[key])}$", said), key, "has no effect:", said)


def test_targets_and_addresses_agree(c):
    d = load(FILES[0])
    stages = re.findall(r"(?m)^FROM \S+ AS (\S+)$", tools.read("Dockerfile"))
    for name in FILES:
        check(load(name)["services"]["inferd"]["build"]["target"] in stages, name, "target")
    scrape = yaml.safe_load(tools.read("deploy", "prometheus", "prometheus.yml"))["scrape_configs"][0]
    host, port = scrape["static_configs"][0]["targets"][0].split(":")
    check(host in d["services"] and d["services"][host]["ports"][0].endswith(f":{port}"), host, port)
    source = yaml.safe_load(tools.read("deploy/grafana/provisioning/datasources/prometheus.yaml"))
    host = re.match(r"http://(\w+):9090$", source["datasources"][0]["url"])[1]
    check(host in d["services"], "Grafana's source", host)
    path = yaml.safe_load(tools.read("deploy/grafana/provisioning/dashboards/inferd.yaml"))
    path = path["providers"][0]["options"]["path"]
    check(any(str(v).split(":")[1:2] == [f"{path}/inferd.json"] for v in d["services"]["grafana"]["volumes"]),
          "the dashboard is not in", path)
