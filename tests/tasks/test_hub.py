"""GLUE from the hub: a real client against a small server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow
import pyarrow.parquet
import pytest

from fedquad.tasks.glue import HUB_REPOSITORY, HUB_REVISION, read_glue_folder

ROWS = [("fine . ", 1), ('a "dull" film', 0), ("sehr schön", 1)]
EVAL_ROWS = [("so-so", 0), ("", 1), ("unlabelled", -1), ("superb", 1)]
READ = """
import json, sys
from fedquad.config import InputError
from fedquad.tasks.glue import read_hub
for name in sys.argv[1:]:
    try:
        task = read_hub(name)
    except InputError as error:
        print(json.dumps({"error": str(error)}))
    else:
        refused = [(refusal.line, refusal.reason) for refusal in task.eval.refused]
        print(json.dumps({"fingerprint": task.fingerprint, "source": task.source,
                          "refused": refused}))
"""


@pytest.fixture
def hub(tmp_path):
    """Serves two parquet files of sst2 and, damaged, of cola; everything else is a 404."""
    prefix = f"/datasets/{HUB_REPOSITORY}/resolve/{HUB_REVISION}"
    files = {f"{prefix}/cola/train-00000-of-00001.parquet": b"not parquet"}
    for name, rows in (("train", ROWS), ("validation", EVAL_ROWS)):
        sentences, labels = zip(*rows, strict=True)
        path = tmp_path / "file.parquet"
        pyarrow.parquet.write_table(
            pyarrow.table({"sentence": sentences, "label": labels, "idx": range(len(rows))}), path
        )
        files[f"{prefix}/sst2/{name}-00000-of-00001.parquet"] = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            data = b"" if self.path == "/" else files.get(self.path)
            self.send_response(404 if data is None else 200)
            if data is not None:
                self.send_header("X-Repo-Commit", HUB_REVISION)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def stop():
        server.shutdown()
        server.server_close()
        thread.join()

    yield f"http://127.0.0.1:{server.server_port}", stop
    if thread.is_alive():
        stop()


def read_in_new_process(endpoint, cache, *names):
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, *names],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_hub_then_its_cache_then_a_clear_error(hub, tmp_path, tsv_folder):
    endpoint, stop = hub
    (task, damaged, absent), _ = read_in_new_process(endpoint, tmp_path, "sst2", "cola", "rte")

    header = "sentence\tlabel\n"
    train = header + "".join(f"{text}\t{label}\n" for text, label in ROWS)
    dev = header + "so-so\tnegative\nsuperb\tpositive\n"
    local = read_glue_folder(tsv_folder(train=train, dev=dev), "sst2")
    assert task["fingerprint"] == local.fingerprint
    assert [line for line, _ in task["refused"]] == [2, 3]
    assert "label '-1' is not one of" in task["refused"][1][1]
    assert HUB_REPOSITORY in task["source"]
    assert "parquet file with the columns sentence, label" in damaged["error"]
    assert "the hub did not give" in absent["error"]

    stop()
    (cached, error), log = read_in_new_process(endpoint, tmp_path, "sst2", "mnli")
    assert cached == task
    for offline_way in ("FEDQUAD_GLUE", "data/glue", "train.tsv and dev.tsv", "does not answer"):
        assert offline_way in error["error"]
    assert "Retrying" not in log  # the hub's client would, for 25 seconds
