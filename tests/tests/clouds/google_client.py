"""Google's own client, with the discovery documents it brings, against the server at an address.

drive    makes, lists and deletes what a cluster is made of; prints what it was told
check    holds requests that were recorded, from standard input, against the discovery documents
"""

import json
import re
import sys
import urllib.parse
import urllib.request

import google.oauth2.credentials
from google.auth.exceptions import RefreshError
from googleapiclient import discovery, discovery_cache
from googleapiclient.errors import HttpError

PROJECT, REGION, CLUSTER = "proving-ground", "us-central1", "prod"
ZONE = f"{REGION}-a"
TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"


def drive(url):
    request = urllib.request.Request(url + TOKEN, headers={"Metadata-Flavor": "Google"})
    given = json.load(urllib.request.urlopen(request))

    def client(name, token=given["access_token"]):
        credentials = google.oauth2.credentials.Credentials(token)
        return discovery.build(name, "v1", credentials=credentials, static_discovery=True,
                               client_options={"api_endpoint": url + {
                                   "compute": "/compute/v1/", "container": "/"}[name]})

    def code(request):
        try:
            request.execute()
        except HttpError as error:
            return [error.resp.status, error.reason]
        except RefreshError:
            # What the client does about a 401.
            return ["wants a new token"]
        raise AssertionError("no error")

    told = {"token lasts": given["expires_in"]}
    clusters = client("container").projects().locations().clusters()
    pools = clusters.nodePools()
    parent = f"projects/{PROJECT}/locations/{REGION}/clusters/{CLUSTER}"
    told["cluster"] = clusters.get(name=parent).execute()["name"]
    told["another cluster"] = code(clusters.get(name=parent + "x"))[0]
    pool = {"name": "hand", "initialNodeCount": 0, "locations": [ZONE], "config": {
        "machineType": "g2-standard-4", "spot": True, "resourceLabels": {"made": "by-hand"}}}
    started = pools.create(parent=parent, body={"nodePool": pool}).execute()
    told["twice"] = code(pools.create(parent=parent, body={"nodePool": pool}))[0]
    odd = {"nodePool": dict(pool, name="odd", config={"machineType": "g99"})}
    told["unknown type"] = code(pools.create(parent=parent, body=odd))
    name = f"{parent}/nodePools/hand"
    told["statuses"] = [pools.get(name=name).execute()["status"] for _ in range(2)]
    operations = client("container").projects().locations().operations()
    operation = f"projects/{PROJECT}/locations/{REGION}/operations/{started['name']}"
    told["operation"] = operations.get(name=operation).execute()["status"]
    told["pools"] = [one["name"] for one in pools.list(parent=parent).execute()["nodePools"]]
    group = pools.get(name=name).execute()["instanceGroupUrls"][0].split("/")[-1]

    compute = client("compute")
    at = {"project": PROJECT, "zone": ZONE}
    of = dict(at, instanceGroupManager=group)
    managers, instances = compute.instanceGroupManagers(), compute.instances()
    names = ["one", "two", "three"]
    made = managers.createInstances(**of, body={"instances": [{"name": it} for it in names]},
                                    requestId="11111111-1111-4111-8111-111111111111")
    told["made"] = made.execute()["status"]
    told["made again"] = made.execute()["status"]
    told["same name"] = code(managers.createInstances(**of, body={"instances": [{"name": "one"}]}))[0]
    listing = managers.listManagedInstances(**of).execute()
    told["pages"] = "nextPageToken" in listing
    actions = {it["name"]: it["currentAction"] for it in listing["managedInstances"]}
    told["actions"] = sorted(set(actions.values()))
    filtered = managers.listManagedInstances(**of, filter="name = two").execute()
    told["filtered"] = [it["name"] for it in filtered["managedInstances"]]
    listed, request = [], instances.list(**at, filter="labels.made = by-hand")
    while request is not None:
        page = request.execute()
        listed += [it["name"] for it in page.get("items", [])]
        request = instances.list_next(request, page)
    told["listed"] = sorted(listed)
    told["status"] = instances.get(**at, instance="one").execute()["status"]
    told["size"] = managers.get(**of).execute()["targetSize"]
    gone = {"instances": [f"zones/{ZONE}/instances/one"]}
    told["deleted"] = managers.deleteInstances(**of, body=gone).execute()["status"]
    managers.listManagedInstances(**of).execute()
    told["not a member"] = code(managers.deleteInstances(**of, body=gone))[0]
    told["gone"] = code(instances.get(**at, instance="one"))[0]
    told["errors"] = managers.listErrors(**of).execute().get("items", [])
    told["preempted"] = compute.zoneOperations().list(
        **at, filter="operationType = compute.instances.preempted").execute().get("items", [])
    types = compute.machineTypes().list(**at).execute()["items"]
    told["types"] = sorted(it["name"] for it in types)
    spot = {"scheduling": {"provisioningModel": "SPOT"}}
    history = compute.advice().capacityHistory(project=PROJECT, region=REGION, body={
        "instanceProperties": {"machineType": "g2-standard-4", **spot},
        "locationPolicy": {"location": f"projects/{PROJECT}/zones/{ZONE}"}, "types": ["PRICE"],
    }).execute()
    told["price"] = history["priceHistory"][0]["listPrice"]["nanos"]
    advice = compute.advice().capacity(project=PROJECT, region=REGION, body={
        "size": 1, "instanceProperties": spot}).execute()
    told["obtainability"] = advice["recommendations"][0]["scores"]["obtainability"]
    told["pool deleted"] = pools.delete(name=name).execute()["operationType"]
    told["a stranger"] = [code(client("compute", "stolen").instances().list(**at))[0]]
    told["a stranger"] += [code(client("container", "stolen").projects().locations().clusters()
                                .get(name=parent))[0]]
    return told


def methods(document):
    found = list(document.get("methods", {}).values())
    for below in document.get("resources", {}).values():
        found += methods(below)
    return found


def pattern(document, method):
    """Of the path: `{a}` is a segment, `{+a}` what the parameter says, or anything."""
    path = "/" + document["servicePath"] + method.get("flatPath", method["path"])
    parts = re.split(r"(\{\+?[A-Za-z]+\})", path)
    return "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts)


def faults(document, schema, value, at):
    if "$ref" in schema:
        schema = document["schemas"][schema["$ref"]]
    kind = schema.get("type", "any")
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool,
             "array": list, "object": dict, "any": object}
    if not isinstance(value, kinds[kind]) or (kind == "integer" and isinstance(value, bool)):
        return [f"{at}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is none of {schema['enum']}"]
    found = []
    if kind == "array":
        for index, one in enumerate(value):
            found += faults(document, schema["items"], one, f"{at}[{index}]")
    if kind == "object":
        for name, one in value.items():
            below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if below is None:
                found.append(f"{at}.{name} is no field")
            elif below.get("readOnly"):
                found.append(f"{at}.{name} is for answers")
            else:
                found += faults(document, below, one, f"{at}.{name}")
    return found


def check(recorded):
    documents = [json.loads(discovery_cache.get_static_doc(name, "v1"))
                 for name in ["compute", "container"]]
    found = []
    for one in recorded:
        fits = [(document, method) for document in documents for method in methods(document)
                if method["httpMethod"] == one["method"]
                and re.fullmatch(pattern(document, method), one["path"])]
        if not fits:
            found.append(f"{one['method']} {one['path']} is no method")
            continue
        document, method = fits[0]
        known = {**document["parameters"], **method.get("parameters", {})}
        found += [f"{method['id']}: {name} is no parameter" for name in one["query"]
                  if known.get(name, {}).get("location") != "query"]
        body = one.get("body")
        if ("request" in method) != (body is not None):
            found.append(f"{method['id']}: a body, or none")
        elif body is not None:
            found += faults(document, method["request"], body, method["id"])
    return found


if sys.argv[1] == "drive":
    print(json.dumps(drive(sys.argv[2])))
else:
    print(json.dumps(check(json.load(sys.stdin))))
