"""The one module that packages of third parties import: what a technique, a quantiser, a backend is made of.

Where things lie inside edgebuild may change; these names stay. What each promises is in its own docstring, how a
package is put together in ``docs/extending.md``, and whether it keeps its contract the ``check_…`` functions say. A
backend's ``device.py`` travels to boards alone and imports nothing of edgebuild, not even this.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebuild.backends.protocol import (
        Backend,
        CompileRequest,
        Settings,
        SettingSpec,
        check_request,
        write_artifact,
        write_notes,
    )
    from edgebuild.core.artifact import Contract, Int8Scheme, Precision, StateLink, TensorSpec
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.core.data import Sample
    from edgebuild.core.steps import CacheScope, ProjectCode, RunsOn, Step, StepContext
    from edgebuild.core.values import Json, Value
    from edgebuild.devices.answers import files_of
    from edgebuild.devices.client import RunnerClient, client_of
    from edgebuild.devices.local import LocalDevice
    from edgebuild.devices.transport import Channel, Device
    from edgebuild.errors import DataError, DeviceError, EdgebuildError, EnvironmentGap, ModelError, UsageError
    from edgebuild.fleet.inventory import DeviceEntry
    from edgebuild.judging.metrics import Metric, named_metric
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.edits import KeepChannels, ReplaceModule
    from edgebuild.models.onnx_graphs import save as save_onnx
    from edgebuild.techniques.report import LayerReport
    from edgebuild.techniques.technique import Parameters, Proposal, Requirements, Technique
    from edgebuild.techniques.workspace import Workspace
    from edgebuild.testing.backends import check_backend
    from edgebuild.testing.devices import check_device
    from edgebuild.testing.techniques import check_technique

#: Where each name lies: what is heavy is imported when it is first used.
_WHERE = {
    "Backend": "backends.protocol",
    "CacheScope": "core.steps",
    "Capabilities": "core.capabilities",
    "Channel": "devices.transport",
    "CompileRequest": "backends.protocol",
    "Contract": "core.artifact",
    "DataError": "errors",
    "Dataset": "models.dataset",
    "Device": "devices.transport",
    "DeviceEntry": "fleet.inventory",
    "DeviceError": "errors",
    "EdgebuildError": "errors",
    "EnvironmentGap": "errors",
    "Int8Scheme": "core.artifact",
    "Json": "core.values",
    "KeepChannels": "models.edits",
    "LayerReport": "techniques.report",
    "LocalDevice": "devices.local",
    "Metric": "judging.metrics",
    "ModelError": "errors",
    "Parameters": "techniques.technique",
    "Precision": "core.artifact",
    "ProjectCode": "core.steps",
    "Proposal": "techniques.technique",
    "ReplaceModule": "models.edits",
    "Requirements": "techniques.technique",
    "RunnerClient": "devices.client",
    "RunsOn": "core.steps",
    "Sample": "core.data",
    "SettingSpec": "backends.protocol",
    "Settings": "backends.protocol",
    "StateLink": "core.artifact",
    "Step": "core.steps",
    "StepContext": "core.steps",
    "Technique": "techniques.technique",
    "TensorSpec": "core.artifact",
    "UsageError": "errors",
    "Value": "core.values",
    "Workspace": "techniques.workspace",
    "check_backend": "testing.backends",
    "check_device": "testing.devices",
    "check_request": "backends.protocol",
    "check_technique": "testing.techniques",
    "client_of": "devices.client",
    "files_of": "devices.answers",
    "named_metric": "judging.metrics",
    "save_onnx": "models.onnx_graphs",
    "write_artifact": "backends.protocol",
    "write_notes": "backends.protocol",
}
#: What has another name there.
_RENAMED = {"save_onnx": "save"}

__all__ = [
    "Backend",
    "CacheScope",
    "Capabilities",
    "Channel",
    "CompileRequest",
    "Contract",
    "DataError",
    "Dataset",
    "Device",
    "DeviceEntry",
    "DeviceError",
    "EdgebuildError",
    "EnvironmentGap",
    "Int8Scheme",
    "Json",
    "KeepChannels",
    "LayerReport",
    "LocalDevice",
    "Metric",
    "ModelError",
    "Parameters",
    "Precision",
    "ProjectCode",
    "Proposal",
    "ReplaceModule",
    "Requirements",
    "RunnerClient",
    "RunsOn",
    "Sample",
    "SettingSpec",
    "Settings",
    "StateLink",
    "Step",
    "StepContext",
    "Technique",
    "TensorSpec",
    "UsageError",
    "Value",
    "Workspace",
    "check_backend",
    "check_device",
    "check_request",
    "check_technique",
    "client_of",
    "files_of",
    "named_metric",
    "save_onnx",
    "write_artifact",
    "write_notes",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edgebuild.plugins' has no attribute {name!r}")
    return getattr(import_module(f"edgebuild.{_WHERE[name]}"), _RENAMED.get(name, name))
