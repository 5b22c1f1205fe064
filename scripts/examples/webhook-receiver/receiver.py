"""A small HTTPS server for Doorward's webhooks: decides requests, and writes notifications down.

    pip install -r requirements.txt
    python receiver.py --certificate iam.crt --key iam.key --secrets secrets.txt --rules rules.yaml

A message counts only if its signature is good and fresh, which the off-the-shelf library of Standard Webhooks checks;
anything else is refused with 401. Who decides is the YAML file, or OPA with --opa URL (see opa.rego). The rules are read
anew when their file changes; a file that cannot be read gives no answer but an error, and Doorward's on_error decides.
"""

import argparse
import collections
import fnmatch
import http.client
import http.server
import json
import pathlib
import ssl
import sys
import threading
import urllib.parse

import standardwebhooks
import yaml

MAX_BODY = 256 * 1024
# Ids of notifications that are remembered, so that one that comes twice counts once.
REMEMBERED = 20_000


class Rules:
    """The first rule whose `match` fits decides; when none does, `default`."""

    def __init__(self, file):
        self.file, self.read, self.rules = pathlib.Path(file), None, None

    def decide(self, event):
        changed = self.file.stat().st_mtime_ns
        if changed != self.read:
            self.rules = yaml.safe_load(self.file.read_text())
            self.read = changed
        for rule in self.rules.get("rules", []):
            if all(fits(event, path, wanted) for path, wanted in rule.get("match", {}).items()):
                return {name: value for name, value in rule.items() if name != "match"}
        return self.rules["default"]


def fits(event, path, wanted):
    """True when the member at a dotted path is one of the wanted values; * stands for any characters."""
    value = event
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    wanted = wanted if isinstance(wanted, list) else [wanted]
    if isinstance(value, str):
        return any(isinstance(one, str) and fnmatch.fnmatchcase(value, one) for one in wanted)
    return any(value == one and type(value) is type(one) for one in wanted)


class Opa:
    """Asks a rule of OPA's data API. What OPA leaves undefined is no decision, and so an error."""

    def __init__(self, url):
        self.url = urllib.parse.urlsplit(url)

    def decide(self, event):
        connect = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = connect(self.url.hostname, self.url.port, timeout=0.8)
        try:
            body = json.dumps({"input": event})
            connection.request("POST", self.url.path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise RuntimeError(f"OPA answers {reply.status}")
            return json.loads(reply.read(MAX_BODY))["result"]
        finally:
            connection.close()


class Receiver(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, tls, secrets, decide, events):
        super().__init__(address, Handler)
        self.tls, self.decide, self.events = tls, decide, events
        self.verifiers = [standardwebhooks.Webhook(secret) for secret in secrets]
        self.seen, self.lock = collections.OrderedDict(), threading.Lock()

    def get_request(self):
        connection, address = super().get_request()
        # The handshake is the handler's: nobody waits for a peer that is slow with it.
        return self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request, client_address):
        print(f"{client_address[0]}: {sys.exc_info()[1]!r}", file=sys.stderr, flush=True)

    def verified(self, body, headers):
        """The message, when one of the secrets has signed it just now; else None."""
        for verifier in self.verifiers:
            try:
                return verifier.verify(body, headers)
            except Exception as error:  # the library raises what it stumbles over when a header is malformed
                print(f"refused: {error}", file=sys.stderr, flush=True)
        return None

    def note(self, message_id, event):
        """Writes a notification down unless it was before."""
        with self.lock:
            if message_id in self.seen:
                return
            line = json.dumps({"id": message_id, **event})
            if self.events:
                with open(self.events, "a") as file:
                    file.write(line + "\n")
            else:
                print(line, flush=True)
            self.seen[message_id] = True
            if len(self.seen) > REMEMBERED:
                self.seen.popitem(last=False)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Silence is waited for no longer than this, in the handshake too.
    timeout = 60
    disable_nagle_algorithm = True

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        message_id = self.headers.get("webhook-id")
        event = self.server.verified(body, dict(self.headers.items()))
        if not isinstance(event, dict):
            return self.answer(401)
        if event.get("type") == "doorward.request.validate":
            try:
                decision = self.server.decide(event)
                reply = {**decision, "version": 1, "request_id": event["request_id"]}
            except Exception as error:
                # No decision. Doorward does what its on_error says.
                print(f"no decision: {error!r}", file=sys.stderr, flush=True)
                return self.answer(500)
            return self.answer(200, reply)
        if str(event.get("type")).startswith("doorward.event."):
            self.server.note(message_id, event)
            return self.answer(204)
        self.answer(400)

    def answer(self, status, reply=None):
        body = b"" if reply is None else json.dumps(reply).encode()
        self.send_response(status)
        if reply is not None:
            self.send_header("content-type", "application/json")
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    options = argparse.ArgumentParser(description="Decides for Doorward, and writes down what it tells.")
    options.add_argument("--listen", default="127.0.0.1:8777", metavar="HOST:PORT", help="default: %(default)s")
    options.add_argument("--certificate", required=True, help="the server's certificate, with its chain, in PEM")
    options.add_argument("--key", required=True, help="its private key")
    options.add_argument("--client-ca", help="authority of Doorward's client certificate, which is required then")
    options.add_argument("--secrets", required=True, help="file with the whsec_… secrets that may sign, one a line")
    who = options.add_mutually_exclusive_group(required=True)
    who.add_argument("--rules", help="YAML file that decides")
    who.add_argument("--opa", metavar="URL", help="rule of OPA's data API: http://127.0.0.1:8181/v1/data/doorward/decision")
    options.add_argument("--events", help="file that notifications are appended to; standard output when absent")
    options = options.parse_args()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(options.certificate, options.key)
    if options.client_ca:
        tls.load_verify_locations(options.client_ca)
        tls.verify_mode = ssl.CERT_REQUIRED
    secrets = pathlib.Path(options.secrets).read_text().split()
    decider = Rules(options.rules) if options.rules else Opa(options.opa)
    host, _, port = options.listen.rpartition(":")
    receiver = Receiver((host.strip("[]"), int(port)), tls, secrets, decider.decide, options.events)
    print(f"listening on https://{host}:{receiver.server_address[1]}", flush=True)
    try:
        receiver.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
