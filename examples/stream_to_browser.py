"""A page that shows an answer as it is written, the assistant's tokens coloured. Only the standard library is needed.

python examples/stream_to_browser.py --pair demo, then open the address that it prints.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import colm_cpp as colm

PAGE = b"""<!doctype html><meta charset="utf-8"><title>colm</title>
<style>body { font: 1rem/1.5 sans-serif; max-width: 40rem; margin: 2rem auto; white-space: pre-wrap }
.assistant { background: #cde; text-decoration: underline dotted }</style>
<form><input name="text" size="60" autofocus> <button>Ask</button></form><main></main>
<script>
const form = document.querySelector("form"), main = document.querySelector("main");
let source;
form.onsubmit = event => {
  event.preventDefault();
  if (source) source.close();
  main.textContent = "";
  source = new EventSource("/ask?" + new URLSearchParams(new FormData(form)));
  source.onmessage = message => {
    const token = JSON.parse(message.data);
    const span = document.createElement("span");
    span.className = token.source;
    span.textContent = token.text;  // text, never HTML: a model may write anything
    main.append(span);
  };
  source.addEventListener("end", () => source.close());
};
</script>"""


class Handler(BaseHTTPRequestHandler):
    """The page, and answers as server-sent events."""

    pair: colm.Pair

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if place.path == "/ask":
            self.answer(parse_qs(place.query).get("text", [""])[0])
            return
        self.begin("text/html; charset=utf-8")
        self.wfile.write(PAGE)

    def answer(self, text: str) -> None:
        """Sends each token as it comes. A browser that leaves ends the text, because closing the stream does."""
        self.begin("text/event-stream")
        try:
            with self.pair.stream_chat([{"role": "user", "content": text}]) as stream:
                for token in stream:
                    self.send("message", {"source": token.source, "text": token.text})
                self.send("end", {"finish_reason": stream.finish_reason})
        except colm.ColmError as error:
            self.send("end", {"error": str(error)})
        except ConnectionError:
            print("the browser left")

    def begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def send(self, event: str, value: dict[str, object]) -> None:
        self.wfile.write(f"event: {event}\ndata: {json.dumps(value)}\n\n".encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    with colm.load(arguments.pair, n_parallel=4) as Handler.pair:
        server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()
