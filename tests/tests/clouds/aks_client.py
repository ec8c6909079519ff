"""Azure's own clients of AKS and of Compute, against the server that the address leads to.

drive    makes, lists, changes and deletes agent pools and machines; prints what it was told
check    holds bodies that were recorded, from standard input, against the models of the client
"""

import json
import sys
import typing

from azure.core import MatchConditions
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.containerservice import ContainerServiceClient, models
from azure.mgmt.containerservice._utils.model_base import Model
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

SCOPES = ["https://management.azure.com/.default"]


class Given:
    """A token that was given."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_scopes, **_options):
        return AccessToken(self.token, 2**31)


class Loopback(ARMChallengeAuthenticationPolicy):
    """The client's own policy, which otherwise sends no token without TLS."""

    def on_request(self, request):
        request.context["enforce_https"] = False
        super().on_request(request)


def clients(url, subscription, token):
    credential = Given(token)
    options = {
        "base_url": url,
        "credential_scopes": SCOPES,
        "authentication_policy": Loopback(credential, *SCOPES),
        "polling_interval": 0.01,
        "retry_total": 0,
    }
    aks = ContainerServiceClient(credential, subscription, **options)
    options["authentication_policy"] = Loopback(credential, *SCOPES)
    return aks, ComputeManagementClient(credential, subscription, **options)


def pool(size, zone, count=1, **more):
    properties = models.AgentPoolManagedClusterAgentPoolProfileProperties(
        count=count,
        vm_size=size,
        type_properties_type="VirtualMachineScaleSets",
        mode="User",
        os_type="Linux",
        availability_zones=[zone],
        scale_set_priority="Spot",
        scale_set_eviction_policy="Delete",
        spot_max_price=-1.0,
        tags={"team": "vision"},
        node_labels={"team": "vision"},
        node_taints=["nvidia.com/gpu=present:NoSchedule"],
        **more,
    )
    return models.AgentPool(properties=properties)


def refused(call, kind=HttpResponseError):
    try:
        call()
    except kind as error:
        return error.error.code if error.error else error.status_code
    raise SystemExit(f"{kind.__name__} was expected")


def drive(url, subscription, group, cluster, size):
    aks, compute = clients(url, subscription, "token-0")
    here = (group, cluster)
    pools, machines = aks.agent_pools, aks.machines
    told = {}

    told["cluster"] = aks.managed_clusters.get(*here).location
    made = pools.begin_create_or_update(
        *here, "hand", pool(size, "1", 2), match_condition=MatchConditions.IfMissing
    ).result()
    told["made"] = [made.name, made.properties.provisioning_state, made.properties.count]
    told["made twice"] = refused(
        lambda: pools.begin_create_or_update(
            *here, "hand", pool(size, "1", 2), match_condition=MatchConditions.IfMissing
        ),
        ResourceExistsError,
    )
    told["changed with an old etag"] = refused(
        lambda: pools.begin_create_or_update(
            *here, "hand", pool(size, "1", 2), etag="0", match_condition=MatchConditions.IfNotModified
        ),
        ResourceModifiedError,
    )
    etag = pools.get(*here, "hand").properties.e_tag
    pools.begin_create_or_update(
        *here, "hand", pool(size, "1", 2), etag=etag, match_condition=MatchConditions.IfNotModified
    ).result()
    told["pools"] = sorted(one.name for one in pools.list(*here))

    seen = list(machines.list(*here, "hand"))
    told["machines"] = [[one.name, one.zones] for one in seen]
    told["of scale sets"] = all("/virtualMachineScaleSets/" in one.properties.resource_id for one in seen)
    told["addresses"] = [one.properties.network.ip_addresses[0].ip for one in seen]
    told["machine"] = machines.get(*here, "hand", seen[0].name).name
    names = models.AgentPoolDeleteMachinesParameter(machine_names=[seen[0].name])
    pools.begin_delete_machines(*here, "hand", names).result()
    told["machines left"] = [one.name for one in machines.list(*here, "hand")]

    told["an unknown size"] = refused(
        lambda: pools.begin_create_or_update(*here, "odd", pool("Standard_Nothing", "1"))
    )
    told["an invalid name"] = refused(
        lambda: pools.begin_create_or_update(*here, "Not_A_Name", pool(size, "1"))
    )
    sold_out = pools.begin_create_or_update(*here, "soldout", pool(size, "2"))
    told["sold out"] = refused(sold_out.result)
    failed = pools.get(*here, "soldout").properties
    told["failed"] = [failed.provisioning_state, failed.status.provisioning_error.code]

    for name in ["hand", "soldout"]:
        pools.begin_delete(*here, name, ignore_pod_disruption_budget=True).result()
        told[f"{name} is gone"] = refused(lambda: pools.get(*here, name), ResourceNotFoundError)
    pools.begin_delete(*here, "hand").result()

    skus = compute.resource_skus.list(filter="location eq 'eastus'")
    told["skus"] = sorted(one.name for one in skus if one.resource_type == "virtualMachines")
    told["usages"] = {one.name.value: one.limit for one in compute.usage.list("eastus")}
    told["elsewhere"] = refused(lambda: list(pools.list("nowhere", cluster)), ResourceNotFoundError)
    stranger, _ = clients(url, subscription, "somebody's")
    told["a stranger"] = refused(lambda: list(stranger.agent_pools.list(*here)), ClientAuthenticationError)
    print(json.dumps(told))


def check(wanted, value, where, wrong):
    """Holds a value against a type of the models: names, kinds, words, and what may be written."""
    arguments = typing.get_args(wanted)
    origin = typing.get_origin(wanted)
    if origin is typing.Union:
        kinds = [one for one in arguments if one is not type(None)]
        words = [one for one in kinds if hasattr(one, "__members__")]
        if words:
            if value not in [one.value for one in words[0]]:
                wrong.append(f"{where}: {value!r} is none of {words[0].__name__}")
        else:
            check(kinds[0], value, where, wrong)
    elif origin is list:
        for at, one in enumerate(value if isinstance(value, list) else [value]):
            check(arguments[0], one, f"{where}[{at}]", wrong)
    elif origin is dict:
        for key, one in value.items():
            check(arguments[1], one, f"{where}.{key}", wrong)
    elif issubclass(wanted, Model):
        # What its fields are is known once there has been one.
        wanted({})
        spaces = {**vars(sys.modules[wanted.__module__]), "_models": models}
        kinds = typing.get_type_hints(wanted, spaces)
        fields = {field._rest_name: (name, field) for name, field in wanted._attr_to_rest_field.items()}
        for key, one in value.items():
            if key not in fields:
                wrong.append(f"{where}: {wanted.__name__} has no {key}")
                continue
            name, field = fields[key]
            if field._visibility == ["read"]:
                wrong.append(f"{where}.{key} is only read")
            check(kinds[name], one, f"{where}.{key}", wrong)
    elif wanted is float:
        if not isinstance(value, (int, float)):
            wrong.append(f"{where}: {value!r} is no number")
    elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        wrong.append(f"{where}: {value!r} is no {wanted.__name__}")


def check_all(bodies):
    wrong = []
    for model, body in bodies:
        check(getattr(models, model), body, model, wrong)
    print(json.dumps(wrong))


if sys.argv[1] == "drive":
    drive(*sys.argv[2:])
else:
    check_all(json.load(sys.stdin))
