"""A W&B server on the loopback interface: enough of its protocol for runs and `wandb sync`."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "team"}}
VIEWER = {"id": "u", "entity": "team", "username": "u", "email": "", "teams": {"edges": []}}


class WandbServer(ThreadingHTTPServer):
    """Keeps `history` by run and line, and all bytes that it `received`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.history, self.reports, self.received = {}, [], b""
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def rows(self, run):
        """Rows of a run, in order."""
        lines = self.history[run]
        return [json.loads(lines[number]) for number in sorted(lines)]

    def answer(self, query, variables):
        if "upsertBucket" in query:
            name = variables["name"]
            lines = self.history.setdefault(name, {})
            bucket = {"id": "b", "name": name, "config": "{}", "project": PROJECT}
            bucket |= {"displayName": "", "description": "", "historyLineCount": len(lines)}
            return {"upsertBucket": {"bucket": bucket, "inserted": len(lines) == 0}}
        if "historyTail" in query:
            return {"model": {**PROJECT, "bucket": self._bucket(variables["name"])}}
        if "createRunFiles" in query:
            files = [{"name": f, "uploadUrl": f"{self.url}/upload"} for f in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "internalId" in query:
            return {"project": {"id": "p", "internalId": "1"}}
        if "upsertView" in query:
            self.reports.append(variables)
            view = {"id": "r", "type": "runs", "name": "r", "spec": variables["spec"]}
            view |= {"displayName": variables["displayName"], "description": "", "updatedAt": None}
            project = {"id": "p", "name": "p", "entityName": "team"}
            return {"upsertView": {"view": {**view, "project": project}, "inserted": True}}
        if "projects(" in query or "models(" in query:
            node = {**PROJECT, "entityName": "team", "createdAt": "", "isBenchmark": False}
            edges = [{"node": {**node, "user": None}, "cursor": ""}]
            page = {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}
            return {"models": page, "entity": {"projects": page}}
        info = {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []}
        return {"viewer": VIEWER, "serverInfo": info}

    def _bucket(self, name):
        if name not in self.history:
            return None
        rows = self.rows(name)
        return {
            "id": "b",
            "name": name,
            "summaryMetrics": json.dumps({"_step": rows[-1]["_step"]} if rows else {}),
            "displayName": "",
            "logLineCount": 0,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "config": "{}",
            "tags": [],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _read(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        self.server.received += data
        return data

    def do_GET(self):
        self._write({})

    def do_PUT(self):
        self._read()
        self._write({})

    def do_POST(self):
        message = json.loads(self._read() or b"{}")
        with self.server.lock:
            if self.path.startswith("/files/"):
                run = self.path.split("/")[-2]
                chunk = (message.get("files") or {}).get("wandb-history.jsonl")
                for number, line in enumerate(chunk["content"] if chunk else [], 0):
                    self.server.history[run][chunk["offset"] + number] = line
                self._write({})
            else:
                self._write(
                    {"data": self.server.answer(message["query"], message.get("variables"))}
                )

    def _write(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
