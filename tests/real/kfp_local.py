"""Runs a compiled pipeline with kfp's own local runner: ``.venv-kfp/bin/python kfp_local.py RUN.json``.

RUN.json is the body of a POST to the runs of a Kubeflow Pipelines API. The official client's model of that body is made
from it first, so that a field which the API does not know is refused here as it would be there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp import components, local
from kfp.pipeline_spec import pipeline_spec_pb2


def main(path: Path) -> None:
    body = json.loads(path.read_text("utf-8"))
    run = kfp_server_api.V2beta1Run(**body)
    kfp_server_api.V2beta1RuntimeConfig(**run.runtime_config)
    whole = run.pipeline_spec
    pipeline, platform = (whole["pipeline_spec"], whole["platform_spec"]) if "platform_spec" in whole else (whole, {})
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    with tempfile.TemporaryDirectory() as root:
        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
        components.load_component_from_text(yaml.safe_dump(pipeline))(**run.runtime_config["parameters"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
