"""Compiles the pipeline: run by an interpreter that has kfp, as a file of its own, with its settings as JSON.

    python kubeflow_pipeline.py '{"image": …, "memory_bytes": …, "claim": …, "mount": …}'    writes YAML

The step knows nothing of this project: it runs a command in the container as ``subprocess_runner.py`` does here, in a
directory beside the one that it then renames, and keeps the last metrics that the command wrote.
"""

# Without `from __future__ import annotations`: kfp reads the step's annotations as types and not as text.

import json
import sys
import tempfile
from pathlib import Path


def train(command: list[str], rows: str, out: str, metrics: str) -> None:
    """The step. kfp ships this function's text alone, so it imports and names everything that it needs itself."""
    import json  # noqa: PLC0415
    import pathlib  # noqa: PLC0415
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    target, left = pathlib.Path(out), pathlib.Path(metrics)
    if target.is_dir():  # an earlier try of this step came to its end
        return
    work = pathlib.Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    words = {"{python}": sys.executable, "{rows}": rows, "{out}": str(work / target.name)}
    found = {}
    try:
        with subprocess.Popen(  # noqa: S603 - the operator's own command, no shell
            [words.get(word, word) for word in command], stdout=subprocess.PIPE, text=True
        ) as program:
            for line in program.stdout or ():
                print(line, end="", flush=True)  # noqa: T201 - the step's log
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if isinstance(said, dict) and isinstance(said.get("metrics"), dict):
                    found = said["metrics"]
        if program.returncode != 0:
            raise SystemExit(f"the trainer ended with {program.returncode}")
        (work / left.name).write_text(json.dumps(found))
        (work / left.name).replace(left)
        (work / target.name).rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def compiled(image: str, memory_bytes: int, claim: str, mount: str) -> str:
    """The pipeline as YAML: one step in ``image``, with the volume ``claim`` at ``mount`` if there is one."""
    from kfp import compiler, dsl  # type: ignore[import-not-found]  # noqa: PLC0415 - in another interpreter

    step = dsl.component(base_image=image)(train)

    @dsl.pipeline(name="retrain")  # type: ignore[untyped-decorator]
    def retrain(command: list[str], rows: str, out: str, metrics: str) -> None:
        task = step(command=command, rows=rows, out=out, metrics=metrics)
        task.set_caching_options(False)
        task.set_memory_limit(str(memory_bytes))
        if claim:
            from kfp import kubernetes  # noqa: PLC0415 - the package kfp-kubernetes

            kubernetes.mount_pvc(task, pvc_name=claim, mount_path=mount)

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "retrain.yaml"
        compiler.Compiler().compile(retrain, str(package))
        return package.read_text("utf-8")


if __name__ == "__main__":
    sys.stdout.write(compiled(**json.loads(sys.argv[1])))
