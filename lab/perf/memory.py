#!/usr/bin/env python3
"""Memory of one proxy by the number of its upstreams and routes, and of services with policies of their own.

    COUNTERSIGN_BIN=target/dist/countersign lab/perf/memory.py PKI_DIR [10,100,1000]

PKI_DIR holds client.pem, client.key and ca.pem, as the harness makes them. For each number: a gateway with so many
upstreams and routes beside so many policy files, its proportional memory (PSS) when it is ready, and after 20,000 requests spread over its
routes. Nothing but the standard library.
"""
import http.client
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

REQUESTS = 20_000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"x" * 100)

    def log_message(self, *_):
        pass


def configure(directory, pki, count, listen, backend):
    head = f"""state_dir = "{directory}/state"
[identity]
cert = "{pki}/client.pem"
key = "{pki}/client.key"
ca = "{pki}/ca.pem"
name = "gateway"
[policy]
dir = "{directory}"
[gateway]
listen = "127.0.0.1:{listen}"
workers = 2
[gateway.throttle]
requests_burst = 1000000
requests_per_second = 1000000000
"""
    routes = "".join(
        f'[[gateway.upstream]]\nname = "u{i}"\nendpoints = ["127.0.0.1:{backend}"]\n'
        f'[[gateway.route]]\npath = "/r{i}"\nto = "u{i}"\nuser = "none"\n'
        for i in range(count)
    )
    (directory / "gateway.toml").write_text(head + routes)
    (directory / "gateway.cedar").write_text('@id("all")\npermit (principal, action == Action::"GET", resource);\n')
    for i in range(count):
        (directory / f"u{i}.cedar").write_text(f'@id("u{i}-read")\npermit (principal, action == Action::"GET", resource);\n')


def pss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss:", "Pss_Anon:")):
            name, value = line.split()[:2]
            yield name.rstrip(":"), int(value)


def measure(binary, pki, count, backend):
    with tempfile.TemporaryDirectory() as name:
        directory, listen = pathlib.Path(name), free_port()
        configure(directory, pki, count, listen, backend)
        began = time.monotonic()
        log = (directory / "log").open("wb")
        proxy = subprocess.Popen(
            [binary, "serve", "gateway", "--config", str(directory / "gateway.toml")],
            stdout=log, stderr=log, env={**os.environ, "COUNTERSIGN_LOG": "warn"})
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", listen), 1).close()
                    break
                except OSError:
                    if proxy.poll() is not None or time.monotonic() - began > 120:
                        sys.exit((directory / "log").read_text()[-2000:])
                    time.sleep(0.02)
            ready = time.monotonic() - began
            idle = dict(pss_kib(proxy.pid))
            client, ok = http.client.HTTPConnection("127.0.0.1", listen), 0
            for i in range(REQUESTS):
                client.request("GET", f"/r{i % count}")
                answer = client.getresponse()
                answer.read()
                ok += answer.status == 200
            if ok != REQUESTS:
                sys.exit(f"{REQUESTS - ok} of {REQUESTS} requests were not answered with 200")
            return ready, idle, dict(pss_kib(proxy.pid))
        finally:
            proxy.terminate()
            proxy.wait(10)


def main():
    pki = os.path.abspath(sys.argv[1])
    counts = [int(n) for n in (sys.argv[2] if len(sys.argv) > 2 else "10,100,1000").split(",")]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("| upstreams, routes, policy files | ready s | PSS MiB (of it own) | after 20,000 requests |")
    print("|---|---|---|---|")
    for count in counts:
        ready, idle, after = measure(os.environ["COUNTERSIGN_BIN"], pki, count, server.server_address[1])
        mib = lambda m: f"{m['Pss'] / 1024:.1f} ({m['Pss_Anon'] / 1024:.1f})"
        print(f"| {count} | {ready:.2f} | {mib(idle)} | {mib(after)} |", flush=True)


main()
