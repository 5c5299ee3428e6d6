"""A minimal W&B server: it takes runs and says how far each got, and takes files, charts and views."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A server on loopback, as long as the context lasts.

    Attributes:
        runs: what was last said of each run, and its history, by its id.
        files: contents of what was uploaded, by paths.
        charts: charts by their names; a name is given once.
        views: workspaces and W&B reports by their ids, in the order in which they came.
        refused: operation that the server refuses.
        requests: number of GraphQL requests so far.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs, self.files, self.charts, self.views = {}, {}, {}, {}
        self.refused = ""
        self.requests = 0

    def handle_error(self, request, client_address):
        """A client that goes away in the middle is no error."""

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
        if operation == "GetDefaultEntity":
            return {"viewer": {"id": "v", "entity": "me"}}
        if operation == "CreateCustomChart" and variables["chartName"] not in self.charts:
            self.charts[variables["chartName"]] = variables
            return {"createCustomChart": {"chart": {"id": "c"}}}
        if operation == "GetProjects":
            project = {"id": "p", "name": "nc-sweeps", "entityName": "me", "createdAt": "2026-01-01T00:00:00Z"}
            node = {"__typename": "Project", "isBenchmark": False, "user": None, **project}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node}], "pageInfo": page}}
        if operation.lower().startswith("upsertview"):
            identifier = variables.get("id") or f"view{len(self.views)}"
            self.views[identifier] = variables
            view = {"project": {"id": "p", "name": "nc-sweeps", "entityName": "me"}, **variables, "id": identifier}
            return {"upsertView": {"view": view, "inserted": True}}
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

    def reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        self.reply({})

    def do_PUT(self):
        self.server.files[self.path] = self.body()
        self.reply({})

    def do_POST(self):
        content = json.loads(self.body())
        if self.path.endswith("file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], content)
            return self.reply({"limits": {}})
        self.server.requests += 1
        operation = re.search(r"(query|mutation)\s+(\w+)", content["query"])[2]
        if operation == self.server.refused:
            return self.reply({"errors": [{"message": "permission denied"}]}, 403)
        answer = self.server.answer(operation, content.get("variables") or {})
        unknown = {"errors": [{"message": f"{operation} is not known here"}]}
        if operation == "CreateCustomChart" and answer is None:
            return self.reply({"errors": [{"message": "a chart with this name already exists"}]}, 409)
        return self.reply(unknown if answer is None else {"data": answer})
