"""The least of a W&B server: takes runs, their history and summary, and says how far it got."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """On loopback, while the context lasts.

    Attributes:
        runs: by their ids: what was last said of each, and its history.
        requests: number of GraphQL requests so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs = {}
        self.requests = 0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, operation, variables):
        if operation == "Viewer":
            teams = {"edges": []}
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": teams}}
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(variables["name"], {"history": []})
            run |= {name: value for name, value in variables.items() if value is not None}
            project = {"id": "p", "name": "nc-sweeps", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": run["name"], "project": project, "historyLineCount": len(run["history"])}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            return {"model": {"id": "p", "name": "nc-sweeps", "entity": {"id": "e", "name": "me"}, "bucket": run and {
                "id": "b", "name": run["name"], "config": run["config"], "wandbConfig": '{"t": 1}', "tags": [],
                "summaryMetrics": json.dumps(run["summary"]), "eventsTail": "[]", "eventsLineCount": 0,
                "logLineCount": 0, "historyLineCount": len(run["history"]),
                "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]),
            }}}  # fmt: skip
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return None

    def stream(self, run, content):
        files = content.get("files", {})
        if history := files.get("wandb-history.jsonl"):
            lines = [json.loads(line) for line in history["content"]]
            run["history"][history["offset"] : history["offset"] + len(lines)] = lines
        if summary := files.get("wandb-summary.json"):
            run["summary"] = json.loads(summary["content"][0])
        run["exit_code"] = content.get("exitcode")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.reply({})

    def do_PUT(self):
        self.body()
        self.reply({})

    def do_POST(self):
        content = json.loads(self.body())
        if self.path.endswith("file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], content)
            return self.reply({"limits": {}})
        self.server.requests += 1
        operation = re.search(r"(query|mutation)\s+(\w+)", content["query"])[2]
        answer = self.server.answer(operation, content.get("variables") or {})
        unknown = {"errors": [{"message": f"{operation} is not known here"}]}
        return self.reply(unknown if answer is None else {"data": answer})
