"""TensorFlow's messages as far as serving needs them: full names and field numbers of TensorFlow and TF Serving 2.21.

A table and not generated code: the official stubs import all of TensorFlow (seconds, half a gigabyte). The pool is
private: the default pool would refuse a second definition when someone imports tensorflow in the same process. Fields
left out travel as unknown fields; enums that nobody reads by name are ``int32``, which is the same on the wire.

Grammar of a field: ``number name type``, with ``*`` after the type for repeated, ``map<type>`` for a map from string,
and ``@group`` for the member of a oneof. A type with a capital letter is a message, looked up from the inside out.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

Field = descriptor_pb2.FieldDescriptorProto

_TENSORFLOW: dict[str, str] = {
    "TensorShapeProto": "2 dim Dim*, 3 unknown_rank bool",
    "TensorShapeProto.Dim": "1 size int64, 2 name string",
    "TensorProto": (
        "1 dtype int32, 2 tensor_shape TensorShapeProto, 3 version_number int32, 4 tensor_content bytes, "
        "5 float_val float*, 6 double_val double*, 7 int_val int32*, 8 string_val bytes*, 9 scomplex_val float*, "
        "10 int64_val int64*, 11 bool_val bool*, 12 dcomplex_val double*, 13 half_val int32*, 16 uint32_val uint32*, "
        "17 uint64_val uint64*, 18 float8_val bytes"
    ),
    "TensorInfo": "1 name string, 2 dtype int32, 3 tensor_shape TensorShapeProto",
    "SignatureDef": "1 inputs map<TensorInfo>, 2 outputs map<TensorInfo>, 3 method_name string",
    "BytesList": "1 value bytes*",
    "FloatList": "1 value float*",
    "Int64List": "1 value int64*",
    "Feature": "1 bytes_list BytesList @kind, 2 float_list FloatList @kind, 3 int64_list Int64List @kind",
    "Features": "1 feature map<Feature>",
    "Example": "1 features Features",
    "AttrValue": (
        "1 list ListValue @value, 2 s bytes @value, 3 i int64 @value, 4 f float @value, 5 b bool @value, "
        "6 type int32 @value, 7 shape TensorShapeProto @value, 8 tensor TensorProto @value"
    ),
    "AttrValue.ListValue": (
        "2 s bytes*, 3 i int64*, 4 f float*, 5 b bool*, 6 type int32*, 7 shape TensorShapeProto*, 8 tensor TensorProto*"
    ),
    "NodeDef": "1 name string, 2 op string, 3 input string*, 4 device string, 5 attr map<AttrValue>",
    "VersionDef": "1 producer int32, 2 min_consumer int32",
    "GraphDef": "1 node NodeDef*, 4 versions VersionDef",
    "MetaGraphDef": "1 meta_info_def MetaInfoDef, 2 graph_def GraphDef, 5 signature_def map<SignatureDef>",
    "MetaGraphDef.MetaInfoDef": "1 meta_graph_version string, 4 tags string*, 5 tensorflow_version string",
    "SavedModel": "1 saved_model_schema_version int64, 2 meta_graphs MetaGraphDef*",
}

_SERVING: dict[str, str] = {
    "ModelSpec": (
        "1 name string, 2 version google.protobuf.Int64Value @version_choice, 3 signature_name string, "
        "4 version_label string @version_choice"
    ),
    "PredictRequest": "1 model_spec ModelSpec, 2 inputs map<tensorflow.TensorProto>, 3 output_filter string*",
    "PredictResponse": "1 outputs map<tensorflow.TensorProto>, 2 model_spec ModelSpec",
    "ExampleList": "1 examples tensorflow.Example*",
    "ExampleListWithContext": "1 examples tensorflow.Example*, 2 context tensorflow.Example",
    "Input": "1 example_list ExampleList @kind, 2 example_list_with_context ExampleListWithContext @kind",
    "Class": "1 label string, 2 score float",
    "Classifications": "1 classes Class*",
    "ClassificationResult": "1 classifications Classifications*",
    "ClassificationRequest": "1 model_spec ModelSpec, 2 input Input",
    "ClassificationResponse": "1 result ClassificationResult, 2 model_spec ModelSpec",
    "Regression": "1 value float",
    "RegressionResult": "1 regressions Regression*",
    "RegressionRequest": "1 model_spec ModelSpec, 2 input Input",
    "RegressionResponse": "1 result RegressionResult, 2 model_spec ModelSpec",
    "InferenceTask": "1 model_spec ModelSpec, 2 method_name string",
    "InferenceResult": (
        "1 model_spec ModelSpec, 2 classification_result ClassificationResult @result, "
        "3 regression_result RegressionResult @result"
    ),
    "MultiInferenceRequest": "1 tasks InferenceTask*, 2 input Input",
    "MultiInferenceResponse": "1 results InferenceResult*",
    "PredictLog": "1 request PredictRequest, 2 response PredictResponse",
    "PredictionLog": "6 predict_log PredictLog @log_type",
    "SignatureDefMap": "1 signature_def map<tensorflow.SignatureDef>",
    "GetModelMetadataRequest": "1 model_spec ModelSpec, 2 metadata_field string*",
    "GetModelMetadataResponse": "1 model_spec ModelSpec, 2 metadata map<google.protobuf.Any>",
    "StatusProto": "1 error_code int32, 2 error_message string",
    "GetModelStatusRequest": "1 model_spec ModelSpec",
    "ModelVersionStatus": "1 version int64, 2 state int32, 3 status StatusProto",
    "GetModelStatusResponse": "1 model_version_status ModelVersionStatus*",
    "FileSystemStoragePathSourceConfig": "",
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy": (
        "100 latest Latest @policy_choice, 101 all All @policy_choice, 102 specific Specific @policy_choice"
    ),
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Latest": "1 num_versions uint32",
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.All": "",
    "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific": "1 versions int64*",
    "ModelConfig": (
        "1 name string, 2 base_path string, 4 model_platform string, 7 model_version_policy "
        "FileSystemStoragePathSourceConfig.ServableVersionPolicy, 8 version_labels map<int64>"
    ),
    "ModelConfigList": "1 config ModelConfig*",
    "ModelServerConfig": (
        "1 model_config_list ModelConfigList @config, 2 custom_model_config google.protobuf.Any @config"
    ),
    "ReloadConfigRequest": "1 config ModelServerConfig, 2 metric_names string*",
    "Metric": "1 name string, 2 int64_value_increase int64 @value_increase",
    "ReloadConfigResponse": "1 status StatusProto, 2 metric Metric*",
}

_SCALARS = {
    "double": Field.TYPE_DOUBLE,
    "float": Field.TYPE_FLOAT,
    "int64": Field.TYPE_INT64,
    "uint64": Field.TYPE_UINT64,
    "int32": Field.TYPE_INT32,
    "uint32": Field.TYPE_UINT32,
    "bool": Field.TYPE_BOOL,
    "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES,
}


def message(name: str) -> Any:
    """The message class with this full name, e.g. ``tensorflow.TensorProto``."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (wrappers_pb2, any_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_file("tensorflow", _TENSORFLOW, ()).SerializeToString())
    serving = _file("tensorflow.serving", _SERVING, ("tensorflow",))
    serving.dependency.extend(["google/protobuf/wrappers.proto", "google/protobuf/any.proto"])
    pool.AddSerializedFile(serving.SerializeToString())
    return pool


def _file(package: str, table: dict[str, str], needs: tuple[str, ...]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.private", package=package, syntax="proto3")
    file.dependency.extend(f"{name}.private" for name in needs)
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path, fields in table.items():  # an outer message stands before its inner ones
        outer, _, name = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        for line in filter(None, fields.split(", ")):
            _add_field(made[path], *line.split())
    return file


def _add_field(owner: descriptor_pb2.DescriptorProto, number: str, name: str, kind: str, group: str = "") -> None:
    field = owner.field.add(name=name, number=int(number), label=Field.LABEL_OPTIONAL)
    if kind.startswith("map<"):
        kind = _add_map_entry(owner, name, kind[4:-1]) + "*"
    if kind.endswith("*"):
        field.label, kind = Field.LABEL_REPEATED, kind[:-1]
    _set_type(field, kind)
    if group:
        names = [oneof.name for oneof in owner.oneof_decl]
        if group[1:] not in names:
            owner.oneof_decl.add(name=group[1:])
            names.append(group[1:])
        field.oneof_index = names.index(group[1:])


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        # Google's and TensorFlow's messages are named in full; protobuf reads a leading dot as "from the root".
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{kind}" if kind[0].islower() else kind


def _add_map_entry(owner: descriptor_pb2.DescriptorProto, field: str, value: str) -> str:
    """A map is a repeated message of key and value, named after its field (protobuf encoding, "Maps")."""
    entry = owner.nested_type.add(name="".join(part.capitalize() for part in field.split("_")) + "Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    _set_type(entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL), value)
    return entry.name


_POOL = _pool()
