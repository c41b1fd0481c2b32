"""A recommender behind HTTP. Run ``python examples/serve.py BUNDLE``, then ask localhost:8000/recommend?user=ID&k=5."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import podx

recommender = podx.load(sys.argv[1], device="auto", long_history="keep-last")
batcher = podx.Batcher(recommender)  # a thread per request asks; the batcher answers many at once


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        try:
            answers = batcher.recommend(user=query.get("user", [""])[0], k=int(query.get("k", ["10"])[0]))
            status, body = 200, [{"item": a.item, "score": a.score} for a in answers]
        except podx.OverloadedError as error:
            status, body = 503, {"error": str(error)}
        except (podx.PodxError, ValueError) as error:
            status, body = 400, {"error": str(error)}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
