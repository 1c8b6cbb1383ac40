"""Pulumi's provider protocol over a table of resource types: one `StandIn` per provider package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, empty_pb2
from grpc import ServicerContext
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from lab.providers import lifecycle
from lab.providers.kind import Created, Kind, ProviderError, Values
from lab.providers.values import decode, encode

Kinds = Mapping[str, Kind]
_HOW = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
}


class StandIn(provider_pb2_grpc.ResourceProviderServicer):
    """`configure` makes the resource types from the provider's configuration; the engine calls it before anything
    else.
    """

    def __init__(self, version: str, configure: Callable[[Values], Kinds]) -> None:
        self._version = version
        self._make = configure
        self._kinds: Kinds = {}
        self._lock = threading.Lock()

    # Attach, configure
    # ------------------------------------------------------------------------------------------------

    def Attach(self, request: plugin_pb2.PluginAttach, context: ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    def Handshake(
        self, request: provider_pb2.ProviderHandshakeRequest, context: ServicerContext
    ) -> provider_pb2.ProviderHandshakeResponse:
        return provider_pb2.ProviderHandshakeResponse()

    def GetPluginInfo(self, request: empty_pb2.Empty, context: ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def CheckConfig(self, request: provider_pb2.CheckRequest, context: ServicerContext) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: provider_pb2.DiffRequest, context: ServicerContext) -> provider_pb2.DiffResponse:
        # No setting of a provider makes its resources other ones: never replace them.
        same = decode(request.olds) == decode(request.news)
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_NONE if same else provider_pb2.DiffResponse.DIFF_SOME
        )

    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        settings = decode(request.args)
        try:
            kinds = self._make(settings)
        except ProviderError as error:
            _abort(context, str(error))
        with self._lock:
            self._kinds = kinds
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Cancel(self, request: empty_pb2.Empty, context: ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    # Resources
    # --------------------------------------------------------------------------------------------------------

    def Check(self, request: provider_pb2.CheckRequest, context: ServicerContext) -> provider_pb2.CheckResponse:
        kind = self._kind(request.urn, context)
        resource = request.urn.rpartition("::")[2]
        inputs, failures = lifecycle.check(
            kind, decode(request.olds), decode(request.news), resource, bytes(request.randomSeed)
        )
        return provider_pb2.CheckResponse(
            inputs=encode(inputs),
            failures=[provider_pb2.CheckFailure(property=name, reason=reason) for name, reason in failures],
        )

    def Diff(self, request: provider_pb2.DiffRequest, context: ServicerContext) -> provider_pb2.DiffResponse:
        kind = self._kind(request.urn, context)
        old = decode(request.old_inputs) or decode(request.olds)
        changes = lifecycle.diff(kind, old, decode(request.news), set(request.ignoreChanges))
        kinds = provider_pb2.DiffResponse
        return provider_pb2.DiffResponse(
            changes=kinds.DIFF_SOME if changes else kinds.DIFF_NONE,
            replaces=[change.name for change in changes if change.replaces],
            diffs=[change.name for change in changes],
            hasDetailedDiff=True,
            detailedDiff={
                change.name: provider_pb2.PropertyDiff(kind=_HOW[change.how, change.replaces], inputDiff=True)
                for change in changes
            },
        )

    def Create(self, request: provider_pb2.CreateRequest, context: ServicerContext) -> provider_pb2.CreateResponse:
        kind, inputs = self._kind(request.urn, context), decode(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=encode(lifecycle.planned(kind, inputs, {})))
        try:
            created = kind.create(inputs)
        except ProviderError as error:
            _abort(context, str(error))
        try:
            kind.settle(created.id, inputs)
            state = self._state(kind, created.id, inputs, dict(created.once))
        except ProviderError as error:
            _abort_created(context, created, inputs, str(error))
        return provider_pb2.CreateResponse(id=created.id, properties=encode(state))

    def Read(self, request: provider_pb2.ReadRequest, context: ServicerContext) -> provider_pb2.ReadResponse:
        kind, state, recorded = self._kind(request.urn, context), decode(request.properties), decode(request.inputs)
        identity = request.id
        if not state:
            identity, state = kind.imported(identity)
        try:
            live = kind.read(identity, state)
        except ProviderError as error:
            _abort(context, str(error))
        if live is None:
            return provider_pb2.ReadResponse(id="")  # the engine takes it out of the state
        inputs = lifecycle.inputs_now(kind, recorded, live)
        outputs = lifecycle.outputs_now(inputs, live, state)
        return provider_pb2.ReadResponse(id=identity, inputs=encode(inputs), properties=encode(outputs))

    def Update(self, request: provider_pb2.UpdateRequest, context: ServicerContext) -> provider_pb2.UpdateResponse:
        kind, state, new = self._kind(request.urn, context), decode(request.olds), decode(request.news)
        old = decode(request.old_inputs) or state
        changed = {change.name for change in lifecycle.diff(kind, old, new, set(request.ignoreChanges))}
        if request.preview:
            return provider_pb2.UpdateResponse(properties=encode(lifecycle.planned(kind, new, state)))
        try:
            kind.update(request.id, {**state, **old}, new, changed)
            outputs = self._state(kind, request.id, new, state)
        except ProviderError as error:
            _abort(context, str(error))
        return provider_pb2.UpdateResponse(properties=encode(outputs))

    def Delete(self, request: provider_pb2.DeleteRequest, context: ServicerContext) -> empty_pb2.Empty:
        kind = self._kind(request.urn, context)
        try:
            kind.delete(request.id, decode(request.properties))
        except ProviderError as error:
            _abort(context, str(error))
        return empty_pb2.Empty()

    # Inside
    # -----------------------------------------------------------------------------------------------------------

    def _kind(self, urn: str, context: ServicerContext) -> Kind:
        token = urn.split("::")[2].rpartition("$")[2]
        with self._lock:
            kind = self._kinds.get(token)
        if kind is None:
            known = ", ".join(sorted(self._kinds)) or "none: the provider is not configured"
            _abort(
                context, f"the lab's stand-in doesn't know {token}; it knows: {known}", grpc.StatusCode.UNIMPLEMENTED
            )
        return kind

    def _state(self, kind: Kind, identity: str, inputs: Values, state: Values) -> Values:
        live = kind.read(identity, {**state, **inputs})
        if live is None:
            raise ProviderError(f"{kind.token} {identity} is gone right after it was written")
        return lifecycle.outputs_now(inputs, live, state)


def _abort(context: ServicerContext, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort raises")


def _abort_created(context: ServicerContext, created: Created, inputs: Values, message: str) -> NoReturn:
    """It exists, but isn't usable: the engine keeps it in the state, and the next `up` doesn't make a second one."""
    properties = encode({**created.once, **inputs})
    detail = any_pb2.Any()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=created.id, properties=properties, reasons=[message], inputs=encode(inputs)
        )
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=message, details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    _abort(context, message)
