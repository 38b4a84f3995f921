"""lws_schema.py - the fields of a LeaderWorkerSet, from the reference of its API leaderworkerset.x-k8s.io/v1.

No package has its schema. Pods inside are Kubernetes' own and checked by that; status is the controller's. A
row: the value's kind, or for an object its rows; "!" ends the name of what must be there."""

POD = object()
IN_PERCENT = object()  # a number, or a text like "30%"

SPEC = {
    "replicas": int,
    "leaderWorkerTemplate!": {
        "leaderTemplate": POD,
        "workerTemplate!": POD,
        "size": int,
        "restartPolicy": ("Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"),
        "subGroupPolicy": {"subGroupPolicyType": ("LeaderWorker", "LeaderExcluded"), "subGroupSize": int},
        "volumeClaimTemplates": list,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": ("Retain", "Delete"), "whenScaled": ("Retain", "Delete")},
    },
    "rolloutStrategy": {
        "type!": ("RollingUpdate",),
        "rollingUpdateConfiguration": {"partition": int, "maxUnavailable": IN_PERCENT, "maxSurge": IN_PERCENT},
    },
    "startupPolicy": ("LeaderCreated", "LeaderReady"),
    "networkConfig": {"subdomainPolicy!": ("Shared", "UniquePerReplica")},
}
SET = {"apiVersion!": ("leaderworkerset.x-k8s.io/v1",), "kind!": ("LeaderWorkerSet",), "metadata!": dict, "spec!": SPEC}


def is_percent(value):
    return isinstance(value, str) and value[-1:] == "%" and value[:-1].isdigit()


def complaints(value, want=None, at=""):
    """What the reference has against a value, as sentences."""
    want = SET if want is None else want
    if want is POD:
        keys = {"metadata": dict, "spec!": dict}
        return complaints(value, keys, at)
    if want is IN_PERCENT:
        return [] if type(value) is int or is_percent(value) else [f"{at}: {value!r} is neither a number nor a percentage"]
    if isinstance(want, tuple):
        return [] if value in want else [f"{at}: {value!r} is none of {want}"]
    if not isinstance(want, dict):
        return [] if type(value) is want else [f"{at}: {value!r} is no {want.__name__}"]
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no object"]
    rows = {name.rstrip("!"): row for name, row in want.items()}
    found = [f"{at}/{name} is not known" for name in value if name not in rows]
    found += [f"{at}/{name[:-1]} is missing" for name in want if name[-1] == "!" and name[:-1] not in value]
    for name in set(rows) & set(value):
        found += complaints(value[name], rows[name], f"{at}/{name}")
    return found
